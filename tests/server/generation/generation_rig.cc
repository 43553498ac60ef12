#include "tests/server/generation/generation_rig.h"

#include <algorithm>
#include <chrono>

#include "gtest/gtest.h"

namespace tandem::server {

constexpr std::chrono::minutes kPatience(1);

void Signal::Set() {
  std::lock_guard lock(mutex_);
  set_ = true;
  changed_.notify_all();
}

void Signal::Wait() {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, kPatience, [this] { return set_; })) ADD_FAILURE() << "timed out";
}

bool Signal::is_set() {
  std::lock_guard lock(mutex_);
  return set_;
}

void ScriptedDevice::SetScript(uint64_t seed, Script script) {
  std::lock_guard lock(mutex_);
  scripts_[seed] = std::move(script);
}

void ScriptedDevice::SetHook(Hook hook) { hook_ = std::move(hook); }

void ScriptedDevice::FailFrom(uint64_t seed, int i) {
  std::lock_guard lock(mutex_);
  fail_from_[seed] = i;
}

absl::Status ScriptedDevice::Run(const engine::StepBatch& batch, engine::StepResult& result) {
  for (const engine::SampleRequest& request : batch.samples) {
    engine::SampledToken token;
    if (request.params == nullptr) {
      token.id = request.score_id;
      token.logprob = -static_cast<float>(request.score_id);
      result.tokens.push_back(token);
      continue;
    }
    const uint64_t seed = request.params->seed;
    const int64_t first =
        first_position_.emplace(std::pair(seed, request.choice), request.position).first->second;
    const int i = static_cast<int>(request.position - first);
    if (hook_ != nullptr) hook_(seed, request.choice, i);
    std::lock_guard lock(mutex_);
    const auto fail = fail_from_.find(seed);
    if (fail != fail_from_.end() && i >= fail->second) return absl::InternalError("device lost");
    token.id = TokenAt(seed, request.choice, i);
    token.finite = token.id != kNotFinite;
    token.logprob = -static_cast<float>(i);
    result.tokens.push_back(token);
  }
  for (const engine::DraftRequest& wish : batch.drafts) Guess(batch, wish, result);
  return absl::OkStatus();
}

int32_t ScriptedDevice::TokenAt(uint64_t seed, int choice, int i) {
  const Script& script = scripts_.at(seed);
  const std::vector<int32_t>& ids = script[choice % script.size()];
  return ids[std::min<size_t>(i, ids.size() - 1)];
}

// Goes on from the first token of the segment that differs from the guess behind it.
void ScriptedDevice::Guess(const engine::StepBatch& batch, const engine::DraftRequest& wish,
                           engine::StepResult& result) {
  const engine::Segment& segment = batch.segments[wish.segment];
  const int end = segment.row_begin + segment.num_rows;
  const engine::SampleRequest* newest = nullptr;
  for (size_t s = 0; s < batch.samples.size(); ++s) {
    const engine::SampleRequest& sample = batch.samples[s];
    if (sample.row < segment.row_begin || sample.row >= end || sample.params == nullptr) continue;
    newest = &sample;
    if (sample.row + 1 < end && result.tokens[s].id != batch.ids[sample.row + 1]) break;
  }
  engine::Draft& draft = result.drafts.emplace_back();
  std::lock_guard lock(mutex_);
  const uint64_t seed = newest->params->seed;
  const auto drawn =
      static_cast<int>(newest->position - first_position_.at({seed, newest->choice}));
  for (int i = drawn + 1; i <= drawn + wish.max_tokens; ++i) {
    const int32_t id = TokenAt(seed, newest->choice, i);
    draft.ids.push_back(right_ == nullptr || right_(i) ? id : id + 1);
  }
}

std::vector<int32_t> Collector::Choice::ids() const {
  std::vector<int32_t> ids;
  for (const engine::SampledToken& token : tokens) ids.push_back(token.id);
  return ids;
}

OutputSink Collector::Sink() {
  return [this](OutputEvent event) { On(std::move(event)); };
}

void Collector::Check(bool good, const std::string& what) {
  if (!good) errors.push_back(what);
}

void Collector::On(OutputEvent event) {
  {
    std::lock_guard lock(mutex_);
    Check(!inside_, "two events at a time");
    inside_ = true;
  }
  if (hook_ != nullptr) hook_(event);
  std::unique_lock lock(mutex_);
  inside_ = false;
  Check(!done_, "an event after the last");
  Choice& choice = choices_[event.choice];
  switch (event.kind) {
    case OutputEvent::Kind::kStarted:
      Check(started++ == 0, "started twice");
      prompt_ids = std::move(event.prompt_ids);
      break;
    case OutputEvent::Kind::kPromptLogprobs:
      Check(event.first_position == 1 + static_cast<int>(prompt_logprobs.size()),
            "prompt logprobs with a gap");
      for (engine::SampledToken& token : event.tokens) prompt_logprobs.push_back(std::move(token));
      break;
    case OutputEvent::Kind::kDelta:
      Check(started == 1, "a delta before the start");
      Check(!choice.finished, "a delta of a finished choice");
      Check(event.position == static_cast<int>(choice.tokens.size()),
            "deltas overlap or leave gaps");
      Check(!event.tokens.empty() || !event.text.empty(), "an empty delta");
      choice.delta_tokens.push_back(static_cast<int>(event.tokens.size()));
      choice.delta_texts.push_back(event.text);
      choice.steps += event.steps;
      choice.drafted += event.drafted;
      choice.accepted += event.accepted;
      choice.text += event.text;
      for (engine::SampledToken& token : event.tokens) choice.tokens.push_back(std::move(token));
      num_tokens_ += choice.delta_tokens.back();
      break;
    case OutputEvent::Kind::kChoiceFinished:
      Check(!choice.finished, "a choice finished twice");
      Check(event.completion_tokens == static_cast<int>(choice.tokens.size()),
            "completion_tokens is not what was delivered");
      Check(event.drafts.rounds == choice.steps && event.drafts.drafted == choice.drafted &&
                event.drafts.accepted == choice.accepted,
            "the choice's drafts are not those of its deltas");
      choice.finished = true;
      choice.end = std::move(event);
      break;
    case OutputEvent::Kind::kFinished: {
      done_ = true;
      Check(event.stats.completion_tokens == num_tokens_, "stats count other tokens");
      for (const auto& [i, c] : choices_) {
        Check(!event.status.ok() || c.finished, "OK with an open choice");
      }
      finish = std::move(event);
      more_.notify_all();
      lock.unlock();
      finished_.Set();  // from here on this object may be gone
      return;
    }
  }
  more_.notify_all();
}

void Collector::WaitTokens(int count) {
  std::unique_lock lock(mutex_);
  const auto there = [&] { return num_tokens_ >= count || done_; };
  if (!more_.wait_for(lock, kPatience, there)) ADD_FAILURE() << "timed out";
}

GenerationRig::GenerationRig(const Tokenizer& tokenizer, RigConfig config) {
  scheduler::SchedulerConfig scheduler_config = config.scheduler;
  scheduler_config.max_slots = config.max_slots;
  scheduler_config.max_step_rows = 64;
  scheduler_config.max_queued_requests = config.max_queued_requests;
  const int blocks =
      config.num_blocks > 0 ? config.num_blocks : config.max_slots * (config.max_context + 15) / 16;
  const scheduler::ModelLimits limits = {.vocab_size = tokenizer.vocab_size(),
                                         .max_context = config.max_context,
                                         .block_tokens = 16,
                                         .num_blocks = {0, blocks}};
  scheduler_ = std::make_unique<scheduler::Scheduler>(
      scheduler_config, limits, [this](const engine::StepBatch& batch, engine::StepResult& result) {
        return device_.Run(batch, result);
      });
  thread_ = std::thread([this] { scheduler_->Run(); });
  config.generator.max_context = config.max_context;
  const ModelText model = {.tokenizer = &tokenizer,
                           .vocab_size = tokenizer.vocab_size(),
                           .invalid_prompt_ids = config.invalid_prompt_ids};
  generator_ = std::make_unique<Generator>(config.generator, model, *scheduler_);
}

GenerationRig::~GenerationRig() {
  generator_.reset();
  StopScheduler();
}

void GenerationRig::StopScheduler() {
  scheduler_->Stop();
  if (thread_.joinable()) thread_.join();
}

GenerationSpec GenerationRig::SpecOfChoices(ScriptedDevice::Script script) {
  device_.SetScript(++last_seed_, std::move(script));
  GenerationSpec spec;
  spec.prompt = TextPrompt{.text = "hello"};
  spec.request.sampling.temperature = 0.0f;
  spec.request.sampling.seed = last_seed_;
  spec.request.stop.max_tokens = 100;
  spec.request.stop.eos_ids = {1};
  spec.request.arrival_us = scheduler_->now_us();
  return spec;
}

void GenerationRig::Run(GenerationSpec spec, Collector& collector) {
  generator_->Start(std::move(spec), collector.Sink());
  collector.WaitFinished();
  EXPECT_TRUE(collector.errors.empty()) << collector.errors.front();
}

}  // namespace tandem::server
