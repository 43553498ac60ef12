// What `tandem bench accept` and `tandem bench model --compare` have in common: an engine that
// answers prompts, with what has to be known to report about it.
//
// Not here  running the answers (bench_generation.h).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/cli/bench_generation.h"
#include "server/cli/bench_report.h"
#include "server/cli/console.h"
#include "server/cli/loaded_engine.h"
#include "server/cli/memory_plan.h"
#include "server/cli/model_source.h"
#include "server/config/settings.h"

namespace tandem::server {

// Of the program and the machine alone.
BenchFacts BenchFactsOf(const Backends& backends, const std::string& command_line);
BenchFacts BenchFactsOf(const Settings& settings, const ModelSource& source, const MemoryPlan& plan,
                        const Backends& backends, const std::string& command_line);

struct AnswerPrompts {
  std::vector<BenchPrompt> prompts;
  std::string text;      // in words, for reports
  bool natural = false;  // answers end where the model ends them
};

// --prompts, else the heldout.jsonl in the model's directory, else, for dummy weights, random ids.
// Prompts of a file that have no turns of their own become a user's message where the model was
// trained to chat.
//   errors  kNotFound, kInvalidArgument with the file and the line; kInvalidArgument when a model
//           comes without prompts
absl::StatusOr<AnswerPrompts> FindPrompts(const std::string& file, const ModelSource& source);

// 16 prompts of 32 ids, the same every time.
AnswerPrompts RandomPrompts(int vocab);

struct AnswerBench {
  std::unique_ptr<LoadedEngine> engine;
  BenchFacts facts;
  GenerationEngine generation;  // its config has room for the longest draft of the engine
};

struct AnswerLoad {
  int streams = 1;
  int max_tokens = 0;  // of an answer
  double temperature = 0.0;
};

// Loads the model with its assistant and warms it up. `wrap` as for LoadEngine.
//   errors  also kInvalidArgument for more streams than --max-step-rows has rows for
absl::StatusOr<AnswerBench> StartAnswers(const Settings& settings, const ModelSource& source,
                                         const AnswerPrompts& prompts, const AnswerLoad& load,
                                         const WrapPropose& wrap, const Console& console,
                                         const std::string& command_line);

// "spec-mode=auto, spec-max-draft=3"
std::string SpeculationText(const scheduler::Speculation& speculation);

}  // namespace tandem::server
