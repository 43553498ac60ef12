#include "bench/workload.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tandem::bench {
namespace {

constexpr uint64_t kPrefixStream = 0x70726566;  // the same in every run
constexpr uint64_t kPoolStream = 0x706f6f6c;
constexpr int kPoolWords = 6000;

int32_t AnyToken(const WorkloadSpec& spec, Random& random) {
  return spec.token_pool[random.Below(spec.token_pool.size())];
}

std::vector<int32_t> PromptIds(const WorkloadSpec& spec, int tokens, Random& random) {
  std::vector<int32_t> ids = {spec.bos_id};
  Random prefix(spec.seed, kPrefixStream);
  while (static_cast<int>(ids.size()) < std::min(spec.shared_prefix, tokens - 1)) {
    ids.push_back(AnyToken(spec, prefix));
  }
  while (static_cast<int>(ids.size()) < tokens) ids.push_back(AnyToken(spec, random));
  return ids;
}

}  // namespace

absl::Status CheckFits(const WorkloadSpec& spec) {
  const int prompt =
      spec.texts.empty() && spec.prompt_tokens.bounded() ? spec.prompt_tokens.most : 1;
  const int output = spec.output_tokens.bounded() ? spec.output_tokens.most : 1;
  if (int64_t{prompt} + output > spec.context_length) {
    return absl::InvalidArgumentError(
        absl::StrFormat("prompts of %d and answers of %d tokens do not fit the model's context of "
                        "%d; lower --prompt-tokens or --output-tokens",
                        prompt, output, spec.context_length));
  }
  return absl::OkStatus();
}

PlannedRequest PlanRequest(const WorkloadSpec& spec, uint64_t run, int index) {
  Random random(spec.seed, (run << 32) + static_cast<uint64_t>(index));
  PlannedRequest request = {.index = index};
  const int prompt_tokens = DrawLength(spec.prompt_tokens, random);
  request.output_tokens = std::min(DrawLength(spec.output_tokens, random), spec.context_length - 1);
  if (spec.tenants > 0) request.tenant = absl::StrCat("tenant-", index % spec.tenants);
  request.seed = random.Bits();
  if (!spec.texts.empty()) {
    request.text = spec.texts[index % spec.texts.size()];
  } else {
    const int room = spec.context_length - request.output_tokens;
    request.prompt_ids = PromptIds(spec, std::min(prompt_tokens, room), random);
  }
  return request;
}

std::string PoolText(uint64_t seed) {
  constexpr std::string_view kLetters = "etaoinshrdlucmfwypvbgkqjxz";
  Random random(seed, kPoolStream);
  std::string text;
  for (int word = 0; word < kPoolWords; ++word) {
    const int letters = 1 + static_cast<int>(random.Below(9));
    // The square prefers the letters in front, the frequent ones.
    for (int i = 0; i < letters; ++i) {
      const double skewed = random.Unit() * random.Unit();
      text += kLetters[static_cast<size_t>(skewed * kLetters.size())];
    }
    text += word % 16 == 0 ? absl::StrCat(" ", random.Below(1000), ". ") : " ";
  }
  return text;
}

std::vector<int32_t> PoolOf(std::vector<int32_t> ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

absl::StatusOr<std::vector<FilePrompt>> ParsePrompts(std::string_view jsonl) {
  std::vector<FilePrompt> prompts;
  int number = 0;
  while (!jsonl.empty()) {
    const std::string_view line = jsonl.substr(0, jsonl.find('\n'));
    jsonl.remove_prefix(std::min(jsonl.size(), line.size() + 1));
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    const auto field = json.is_object() ? json.find("prompt") : json.end();
    if (!json.is_object() || field == json.end() || !field->is_string() ||
        field->get_ref<const std::string&>().empty()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "line %d is not a JSON object with a text \"prompt\", such as {\"prompt\": \"Hello\"}",
          number));
    }
    FilePrompt& prompt = prompts.emplace_back(FilePrompt{.text = field->get<std::string>()});
    const auto task = json.find("task");
    if (task == json.end()) continue;
    if (!task->is_string()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("\"task\" of line %d is not a text; it names a class of prompts", number));
    }
    prompt.task = task->get<std::string>();
  }
  if (prompts.empty()) return absl::InvalidArgumentError("there is no prompt in it");
  return prompts;
}

}  // namespace tandem::bench
