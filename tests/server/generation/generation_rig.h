// A Generator over a real scheduler and a device that says what the test wrote down.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/step.h"
#include "scheduler/scheduler.h"
#include "server/generation/generator.h"
#include "server/text/tokenizer.h"

namespace tandem::server {

// Something that happens once. Wait fails the test and goes on if it does not within a minute.
class Signal {
 public:
  void Set();
  void Wait();
  bool is_set();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

// Draws token i of a choice from the script that the request's seed selects; after its end, the
// last one again; kNotFinite stands for logits without a finite one. The log-probability of token i
// is -i, that of a scored prompt token its own id below 0.
class ScriptedDevice {
 public:
  using Script = std::vector<std::vector<int32_t>>;  // [choices][tokens]
  static constexpr int32_t kNotFinite = -1;

  // From any thread, before the request that uses it.
  void SetScript(uint64_t seed, Script script);
  // Called on the scheduler's thread before token i of a choice is drawn; may block.
  using Hook = std::function<void(uint64_t seed, int choice, int i)>;
  void SetHook(Hook hook);              // before the first request
  void FailFrom(uint64_t seed, int i);  // the device is lost where token i would be drawn
  // Whether a guess of token i is right. Every one is unless told otherwise. Before the first
  // request.
  void SetGuess(std::function<bool(int i)> right) { right_ = std::move(right); }

  absl::Status Run(const engine::StepBatch& batch, engine::StepResult& result);

 private:
  // Token i of a choice. With the lock.
  int32_t TokenAt(uint64_t seed, int choice, int i);
  void Guess(const engine::StepBatch& batch, const engine::DraftRequest& wish,
             engine::StepResult& result);

  std::mutex mutex_;  // guards the scripts and where they fail
  std::map<uint64_t, Script> scripts_;
  std::map<uint64_t, int> fail_from_;
  Hook hook_;
  std::function<bool(int i)> right_;
  std::map<std::pair<uint64_t, int>, int64_t> first_position_;  // scheduler's thread
};

// The events of one request, checked against the contract of generator.h as they come.
class Collector {
 public:
  OutputSink Sink();  // refers to this object
  // Called with every event, on the pool's thread, outside the lock. Before Start.
  void SetHook(std::function<void(const OutputEvent&)> hook) { hook_ = std::move(hook); }

  // Waits for kFinished; the members below are then final.
  void WaitFinished() { finished_.Wait(); }
  bool is_finished() { return finished_.is_set(); }
  // Waits until so many tokens of all choices have been delivered.
  void WaitTokens(int count);

  struct Choice {
    std::string text;
    std::vector<engine::SampledToken> tokens;
    std::vector<int> delta_tokens;         // per delta
    std::vector<std::string> delta_texts;  // per delta
    int steps = 0;                         // of all deltas, as the next two
    int drafted = 0;
    int accepted = 0;
    bool finished = false;
    OutputEvent end;
    std::vector<int32_t> ids() const;
  };
  const Choice& choice(int i) { return choices_[i]; }
  int num_choices() const { return static_cast<int>(choices_.size()); }

  std::vector<std::string> errors;  // broken contract
  int started = 0;
  std::vector<int32_t> prompt_ids;
  std::vector<engine::SampledToken> prompt_logprobs;
  OutputEvent finish;

 private:
  void On(OutputEvent event);
  void Check(bool good, const std::string& what);

  std::mutex mutex_;
  std::condition_variable more_;
  int num_tokens_ = 0;  // guarded by mutex_
  std::map<int, Choice> choices_;
  bool inside_ = false;  // guarded by mutex_
  bool done_ = false;
  Signal finished_;
  std::function<void(const OutputEvent&)> hook_;
};

struct RigConfig {
  int max_slots = 8;
  int max_queued_requests = 1000;
  int max_context = 256;
  int num_blocks = 0;                         // 0: what full slots need
  scheduler::SchedulerConfig scheduler = {};  // max_slots, max_step_rows and max_queued_requests
                                              // are filled in
  GeneratorConfig generator = {};             // max_context is filled in
  std::vector<int32_t> invalid_prompt_ids = {};
};

class GenerationRig {
 public:
  // `tokenizer` outlives the rig.
  explicit GenerationRig(const Tokenizer& tokenizer, RigConfig config = {});
  ~GenerationRig();

  // A request that runs `script`: 100 tokens at most, greedy, prompt "hello".
  GenerationSpec Spec(std::vector<int32_t> script) { return SpecOfChoices({std::move(script)}); }
  GenerationSpec SpecOfChoices(ScriptedDevice::Script script);

  // Starts and waits.
  void Run(GenerationSpec spec, Collector& collector);

  void StopScheduler();  // as the server does at its end; once
  void DropGenerator() { generator_.reset(); }

  ScriptedDevice& device() { return device_; }
  scheduler::Scheduler& scheduler() { return *scheduler_; }
  Generator& generator() { return *generator_; }

 private:
  uint64_t last_seed_ = 0;
  ScriptedDevice device_;
  std::unique_ptr<scheduler::Scheduler> scheduler_;
  std::thread thread_;
  std::unique_ptr<Generator> generator_;
};

}  // namespace tandem::server
