#include "server/cli/bench_answers.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "bench/random.h"
#include "bench/workload.h"
#include "server/chat/render_chat.h"
#include "server/cli/bench_compare.h"
#include "server/cli/format.h"
#include "server/cli/machine.h"
#include "server/cli/running_model.h"
#include "server/cli/served_model_facts.h"
#include "server/cli/version.h"
#include "server/config/kv_setting.h"

namespace tandem::server {
namespace {

namespace fs = std::filesystem;

constexpr int kRandomPrompts = 16;
constexpr int kRandomPromptTokens = 32;
constexpr int kLeastContext = 128;  // steps of a few rows are timed too

// The ids of a prompt; see FindPrompts.
absl::StatusOr<std::vector<int32_t>> PromptIds(const std::string& text, const ModelSource& source,
                                               const Tokenizer& tokenizer) {
  const bool has_turns = text.find("<|turn>") != std::string::npos;
  if (has_turns || !IsInstruct(source.config, tokenizer)) {
    return tokenizer.EncodePrompt(text, /*add_bos=*/true, /*parse_special=*/true).ids;
  }
  const ChatPrompt chat = {.messages = {{.role = ChatRole::kUser, .content = text}}};
  const absl::StatusOr<RenderedChat> rendered = RenderChat(chat, ChatFormatOf(source));
  if (!rendered.ok()) return rendered.status();
  return tokenizer
      .EncodePrompt(rendered->text, /*add_bos=*/true, /*parse_special=*/true,
                    rendered->client_spans)
      .ids;
}

absl::StatusOr<AnswerPrompts> ReadPrompts(const fs::path& path, const ModelSource& source) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError("--prompts: cannot read the file " + path.string());
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const absl::StatusOr<std::vector<bench::FilePrompt>> lines = bench::ParsePrompts(text);
  if (!lines.ok()) {
    return absl::Status(
        lines.status().code(),
        absl::StrFormat("--prompts %s: %s", path.string(), std::string(lines.status().message())));
  }
  const absl::StatusOr<Tokenizer> tokenizer = LoadTokenizer(source);
  if (!tokenizer.ok()) return tokenizer.status();
  AnswerPrompts found = {.natural = true};
  for (const bench::FilePrompt& line : *lines) {
    absl::StatusOr<std::vector<int32_t>> ids = PromptIds(line.text, source, *tokenizer);
    if (!ids.ok()) return ids.status();
    found.prompts.push_back(
        {.task = line.task.empty() ? "prompts" : line.task, .ids = *std::move(ids)});
  }
  found.text =
      absl::StrFormat("%d prompts of %s (%s)", found.prompts.size(), path.filename().string(),
                      absl::StrJoin(TasksOf(found.prompts), ", "));
  return found;
}

int LongestPrompt(const AnswerPrompts& prompts) {
  size_t longest = 0;
  for (const BenchPrompt& prompt : prompts.prompts) longest = std::max(longest, prompt.ids.size());
  return static_cast<int>(longest);
}

double LoadAverage() {
  double minute = 0.0;
  return getloadavg(&minute, 1) == 1 ? minute : 0.0;
}

}  // namespace

BenchFacts BenchFactsOf(const Backends& backends, const std::string& command_line) {
  return {.command_line = command_line,
          .version = std::string(Version()),
          .commit = std::string(GitCommit()),
          .build = std::string(BuildFlags()),
          .date = UtcDate(),
          .cpu = CpuModelName(),
          .backend = backends.ops().name,
          .threads = kernels::CpuThreads(*backends.cpu),
          .load = LoadAverage()};
}

BenchFacts BenchFactsOf(const Settings& settings, const ModelSource& source, const MemoryPlan& plan,
                        const Backends& backends, const std::string& command_line) {
  BenchFacts facts = BenchFactsOf(backends, command_line);
  facts.model = source.name;
  facts.parameters = CountParameters(source.config);
  facts.weight_bytes = plan.weight_bytes + engine::PleTableBytes(source.config);
  facts.weight_type = settings.weights;
  facts.kv_type = KvText(KvFormatsOf(settings));
  return facts;
}

AnswerPrompts RandomPrompts(int vocab) {
  AnswerPrompts found = {.text =
                             absl::StrFormat("Random ids, %d to a prompt", kRandomPromptTokens)};
  for (int i = 0; i < kRandomPrompts; ++i) {
    bench::Random random(/*seed=*/1, i);
    BenchPrompt& prompt = found.prompts.emplace_back(BenchPrompt{.task = "random"});
    for (int k = 0; k < kRandomPromptTokens; ++k) {
      prompt.ids.push_back(static_cast<int32_t>(random.Below(vocab)));
    }
  }
  return found;
}

absl::StatusOr<AnswerPrompts> FindPrompts(const std::string& file, const ModelSource& source) {
  if (!file.empty()) return ReadPrompts(file, source);
  if (source.dummy()) return RandomPrompts(source.config.vocab);
  const fs::path own = source.directory / "heldout.jsonl";
  std::error_code error;
  if (fs::is_regular_file(own, error)) return ReadPrompts(own, source);
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s comes without prompts (heldout.jsonl); give --prompts FILE with JSON lines such as "
      "{\"task\": \"chat\", \"prompt\": \"Hello\"}: what is measured depends on the text",
      source.name));
}

absl::StatusOr<AnswerBench> StartAnswers(const Settings& settings, const ModelSource& source,
                                         const AnswerPrompts& prompts, const AnswerLoad& load,
                                         const WrapPropose& wrap, const Console& console,
                                         const std::string& command_line) {
  const int rows_besides = scheduler::SchedulerConfig{}.min_chunk_rows;
  if (load.streams + rows_besides > settings.max_step_rows) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--streams %d is too much for --max-step-rows %d: every stream takes a row of a step, and "
        "a prompt at least %d; raise --max-step-rows to %d",
        load.streams, settings.max_step_rows, rows_besides, load.streams + rows_besides));
  }
  absl::StatusOr<Backends> backends = MakeBackends(settings);
  if (!backends.ok()) return backends.status();
  MemoryRequest memory = MemoryRequestOf(settings, source, load.streams);
  memory.max_context = std::max(LongestPrompt(prompts) + load.max_tokens + 1, kLeastContext);
  memory.context_option = "--generate, or the prompts";
  const absl::StatusOr<MemoryPlan> plan = PlanMemoryOf(*backends, source.config, memory);
  if (!plan.ok()) return plan.status();
  DescribeStart(console, settings, source, *backends, *plan);

  AnswerBench bench = {.facts = BenchFactsOf(settings, source, *plan, *backends, command_line)};
  absl::StatusOr<std::unique_ptr<LoadedEngine>> engine =
      LoadEngine(settings, source, *plan, *std::move(backends), console, nullptr, wrap);
  if (!engine.ok()) return engine.status();
  bench.engine = *std::move(engine);
  LoadedEngine& loaded = *bench.engine;

  GenerationEngine& generation = bench.generation;
  generation.run_step = [&loaded](const engine::StepBatch& batch, engine::StepResult& result) {
    return loaded.runner->Run(batch, result);
  };
  generation.limits = LimitsOf(loaded);
  generation.config.max_slots = load.streams;
  generation.config.max_step_rows = settings.max_step_rows;
  generation.config.max_queued_requests =
      std::max(generation.config.max_queued_requests, load.streams);
  generation.config.max_draft_tokens = loaded.max_draft_tokens;
  generation.config.prefix_cache = false;  // prompts are answered again and again, in full
  if (absl::Status s = scheduler::Validate(generation.config, generation.limits); !s.ok()) return s;
  absl::StatusOr<scheduler::CostModel> cost = WarmUp(loaded, generation.config);
  if (!cost.ok()) return cost.status();
  generation.cost = *std::move(cost);
  if (loaded.assistant != nullptr) {
    generation.draft_step_bytes = [&loaded](int slots) {
      return loaded.assistant->StepBytes(slots);
    };
  }
  generation.sampling = DefaultSampling(settings, source.config);
  generation.sampling.temperature = static_cast<float>(load.temperature);
  if (prompts.natural) generation.eos_ids = source.config.generation.eos_ids;
  return bench;
}

std::string SpeculationText(const scheduler::Speculation& speculation) {
  using Mode = scheduler::Speculation::Mode;
  if (speculation.mode == Mode::kOff) return "spec-mode=off";
  return absl::StrFormat("spec-mode=%s, spec-max-draft=%d",
                         speculation.mode == Mode::kFixed ? "fixed" : "auto",
                         speculation.max_draft_tokens);
}

}  // namespace tandem::server
