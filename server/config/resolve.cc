#include "server/config/resolve.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "server/config/bench_kernels_options.h"
#include "server/config/bench_kv_options.h"
#include "server/config/bench_model_options.h"
#include "server/config/bench_serve_options.h"
#include "server/config/nearest_name.h"
#include "server/config/option_value.h"
#include "server/config/toml_file.h"

namespace tandem::server {
namespace {

constexpr std::string_view kPrefix = "TANDEM_";

struct FromEnvironment {
  std::vector<Assignment> assignments;
  std::vector<std::string> warnings;
};

FromEnvironment ReadEnvironment(const Environment& environment) {
  FromEnvironment result;
  std::map<std::string, const OptionSpec*> options;
  for (const OptionSpec& option : Options()) {
    if (option.is_setting) options[EnvironmentName(option)] = &option;
  }
  std::vector<std::string_view> names;
  for (const auto& [name, option] : options) names.push_back(name);
  for (const auto& [name, value] : environment) {
    if (name.substr(0, kPrefix.size()) != kPrefix || value.empty()) continue;
    const auto found = options.find(name);
    if (found == options.end()) {
      // Others may use the prefix too (an orchestrator's TANDEM_SERVICE_HOST): only a near miss is
      // worth a word.
      const std::string_view nearest = NearestName(name, names);
      if (nearest.empty()) continue;
      result.warnings.push_back(
          absl::StrFormat("the environment variable %s is not known; did you "
                          "mean %s?",
                          name, std::string(nearest)));
      continue;
    }
    const OptionSpec& option = *found->second;
    Assignment assignment = {.option = &option, .where = name};
    if (IsList(option)) {
      assignment.values = absl::StrSplit(value, ',');
    } else {
      assignment.values = {value};
    }
    result.assignments.push_back(std::move(assignment));
  }
  return result;
}

// Flags of number lists may hold several values each: --streams 1,16.
void SplitNumberLists(std::vector<Assignment>& flags) {
  for (Assignment& flag : flags) {
    if (!IsList(*flag.option) || !IsNumber(*flag.option)) continue;
    std::vector<std::string> values;
    for (const std::string& word : flag.values) {
      for (const auto& part : absl::StrSplit(word, ',')) values.emplace_back(part);
    }
    flag.values = std::move(values);
  }
}

absl::Status Contradiction(std::string message) { return absl::InvalidArgumentError(message); }

// `a_name` as the user gave it, for messages about two settings.
std::string Given(const Invocation& invocation, const std::string& name) {
  const auto found = invocation.given.find(name);
  return found == invocation.given.end() ? "--" + name : found->second;
}

absl::Status CheckTogether(const Invocation& invocation) {
  const Settings& s = invocation.settings;
  const auto given = [&](const std::string& name) { return invocation.given.count(name) > 0; };
  const bool dummy = s.load_format == "dummy";
  if (dummy && given("model")) {
    return Contradiction(absl::StrFormat(
        "%s '%s' and %s dummy contradict each other: dummy weights read no checkpoint; drop one",
        Given(invocation, "model"), s.model, Given(invocation, "load-format")));
  }
  if (dummy && s.model_shape.empty()) {
    return Contradiction(absl::StrFormat("%s dummy needs --model-shape e2b, e4b, 12b, 26b or 31b",
                                         Given(invocation, "load-format")));
  }
  if (!dummy && given("model-shape") && invocation.verb != Verb::kBenchKv &&
      invocation.verb != Verb::kBenchKernels) {
    return Contradiction(absl::StrFormat(
        "%s %s has no effect without --load-format dummy; add that or drop the shape",
        Given(invocation, "model-shape"), s.model_shape));
  }
  if (invocation.verb == Verb::kChat && !s.chat.connect.empty() &&
      Given(invocation, "model") == "--model" && given("model")) {
    return Contradiction(absl::StrFormat(
        "--connect %s and --model %s contradict each other: the server has its own model; drop one",
        s.chat.connect, s.model));
  }
  if (s.spec_mode == "fixed" && s.draft_model == "none") {
    return Contradiction(absl::StrFormat(
        "%s fixed and %s none contradict each other: without a drafter nothing is guessed; drop "
        "one",
        Given(invocation, "spec-mode"), Given(invocation, "draft-model")));
  }
  if (s.max_context > 0 && s.default_max_tokens > s.max_context) {
    return Contradiction(
        absl::StrFormat("%s is %d but %s is %d; an answer can not be longer than "
                        "the context",
                        Given(invocation, "default-max-tokens"), s.default_max_tokens,
                        Given(invocation, "max-context"), s.max_context));
  }
  const int rows_besides = scheduler::SchedulerConfig{}.min_chunk_rows;
  if (s.max_step_rows < s.max_slots + rows_besides && invocation.verb == Verb::kServe) {
    return Contradiction(absl::StrFormat(
        "%s is %d but %s is %d; every running sequence takes a row of a step, and a prompt at "
        "least "
        "%d: raise it to %d",
        Given(invocation, "max-step-rows"), s.max_step_rows, Given(invocation, "max-slots"),
        s.max_slots, rows_besides, s.max_slots + rows_besides));
  }
  const bool zero_port = s.http_listen.ends_with(":0");
  if (!zero_port &&
      std::find(s.grpc_listen.begin(), s.grpc_listen.end(), s.http_listen) != s.grpc_listen.end()) {
    return Contradiction(absl::StrFormat("%s and %s are both %s; each needs a port of its own",
                                         Given(invocation, "grpc-listen"),
                                         Given(invocation, "http-listen"), s.http_listen));
  }
  const auto no_tests = [](const std::vector<int>& counts) {
    return std::all_of(counts.begin(), counts.end(), [](int count) { return count == 0; });
  };
  if (no_tests(s.bench.prompt) && no_tests(s.bench.generate)) {
    return Contradiction("--prompt 0 and --generate 0 together leave nothing to measure");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Invocation> Resolve(std::span<const std::string> words,
                                   const Environment& environment, const ReadFile& read_file) {
  absl::StatusOr<CommandLine> line = ParseCommandLine(words);
  if (!line.ok()) return line.status();
  Invocation invocation = {.action = line->action, .verb = line->verb, .family = line->family};
  if (line->action != CommandLine::Action::kRun) return invocation;
  SplitNumberLists(line->flags);
  FromEnvironment from_environment = ReadEnvironment(environment);
  invocation.warnings = std::move(from_environment.warnings);

  const auto store = [&](const std::vector<Assignment>& assignments) -> absl::Status {
    for (const Assignment& assignment : assignments) {
      if (absl::Status s = StoreValue(*assignment.option, assignment.values, assignment.where,
                                      invocation.settings);
          !s.ok()) {
        return s;
      }
      invocation.given[std::string(assignment.option->name)] = assignment.where;
    }
    return absl::OkStatus();
  };

  // Which file is known only after both of its sources were read; then they are stored once more.
  if (absl::Status s = store(from_environment.assignments); !s.ok()) return s;
  if (absl::Status s = store(line->flags); !s.ok()) return s;
  const std::string path = invocation.settings.config;
  if (!path.empty()) {
    absl::StatusOr<std::string> text = read_file(path);
    if (!text.ok()) {
      return absl::Status(text.status().code(),
                          absl::StrFormat("%s: %s", Given(invocation, "config"),
                                          std::string(text.status().message())));
    }
    absl::StatusOr<std::vector<Assignment>> from_file = ParseToml(*text, path);
    if (!from_file.ok()) return from_file.status();
    if (absl::Status s = store(*from_file); !s.ok()) return s;
    if (absl::Status s = store(from_environment.assignments); !s.ok()) return s;
    if (absl::Status s = store(line->flags); !s.ok()) return s;
  }
  if (absl::Status s = CheckTogether(invocation); !s.ok()) return s;
  if (invocation.verb == Verb::kBenchModel) {
    if (absl::Status s = CheckBenchModel(invocation.settings, invocation.given); !s.ok()) return s;
  }
  if (invocation.verb == Verb::kBenchKv) {
    if (absl::Status s = CheckBenchKv(invocation.settings.bench_kv, invocation.given); !s.ok())
      return s;
  }
  if (invocation.verb == Verb::kBenchKernels) {
    if (absl::Status s = CheckBenchKernels(invocation.settings.bench_kernels, invocation.given);
        !s.ok()) {
      return s;
    }
  }
  if (invocation.verb == Verb::kBenchServe) {
    if (absl::Status s = CheckBenchServe(invocation.settings.bench_serve, invocation.given);
        !s.ok()) {
      return s;
    }
  }
  return invocation;
}

}  // namespace tandem::server
