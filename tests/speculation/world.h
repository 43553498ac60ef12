// The product's loop over a real model, run by tests: worlds of random requests under a scheduler,
// each compared with what its request says alone and plainly (SpeakAlone, plain_text.h): no
// scheduler, no batch, no draft, no block of another request.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "scheduler/request.h"
#include "tests/engine/engine_rig.h"
#include "tests/speculation/proposers.h"
#include "tests/speculation/rig_assistant.h"

namespace tandem::testing {

// TANDEM_FULL=1 in the environment.
bool FullCount();

// What became of requests, summed.
struct Totals {
  int64_t drafted = 0;
  int64_t accepted = 0;
  int64_t failed = 0;
  int64_t preemptions = 0;
  int64_t rounds = 0;
  int64_t rounds_with_draft = 0;
  int64_t tokens = 0;
  int64_t choices = 0;
  int64_t hits = 0;           // requests that found a part of their prompt in the prefix cache
  int64_t cached_tokens = 0;  // of prompts, found there
  int64_t evicted_blocks = 0;

  void Add(const scheduler::Request& request, const scheduler::RequestStats& stats) {
    choices += request.n;
    drafted += stats.drafts.drafted;
    accepted += stats.drafts.accepted;
    failed += stats.drafts.failed;
    rounds += stats.drafts.rounds;
    rounds_with_draft += stats.drafts.rounds_with_draft;
    preemptions += stats.preemptions;
    tokens += stats.completion_tokens;
    hits += stats.cached_prompt_tokens > 0 ? 1 : 0;
    cached_tokens += stats.cached_prompt_tokens;
  }
};

// A model that worlds run on.
struct StageModel {
  const char* name;     // a golden variant, "tiny", "tiny-shared" or "demo"
  const char* numbers;  // as SetNumbers reads them
  uint64_t seed;        // of its first world
};
std::string StageName(const StageModel& model);  // as part of a test's name

// A model, and a scheduler over it for each world.
class Stage {
 public:
  explicit Stage(const StageModel& model);

  EngineRig rig;
  const std::string numbers;
  std::shared_ptr<Script> script;  // what requests say, for proposers that know it
  engine::Propose propose;
  std::unique_ptr<engine::Runner> runner;
  std::unique_ptr<RigAssistant> assistant;  // null: there is none
  Totals totals;
  uint64_t next_seed = 1;  // every request has its own
};

struct WorldOptions {
  std::optional<Guess> guess;        // otherwise any
  std::optional<float> temperature;  // otherwise any
  bool penalties = false;            // always, otherwise at times
  bool logprobs = false;             // always, top 5
  bool undisturbed = false;          // room for all, nothing cancelled, drafts of fixed length
  bool stops = true;                 // some requests have stop ids
  bool prefixes = false;             // prompts that begin alike or go on from another's text
};

// Worlds until `cases` requests have run; the first one's seed is `seed`, each next one's one more.
// Fails the test that runs where anything is not as it has to be.
void RunWorlds(Stage& stage, int cases, uint64_t seed, const WorldOptions& options);

}  // namespace tandem::testing
