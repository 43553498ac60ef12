// `tandem run`: one prompt through the same text layer, scheduler and engine as the server's.

#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <functional>
#include <iostream>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "scheduler/draft_report.h"
#include "scheduler/scheduler.h"
#include "server/chat/render_chat.h"
#include "server/cli/console.h"
#include "server/cli/format.h"
#include "server/cli/running_model.h"
#include "server/cli/served_model_facts.h"
#include "server/cli/signals.h"
#include "server/cli/verbs.h"
#include "server/generation/generator.h"
#include "server/grpc/request_id.h"
#include "server/text/utf8.h"

namespace tandem::server {
namespace {

constexpr int kInterrupted = 130;  // as a shell reports an end by SIGINT

// Collects the answer, and prints it as it comes unless it is to be one JSON object.
class Answer {
 public:
  explicit Answer(bool stream) : stream_(stream) {}

  void OnEvent(OutputEvent event) {
    const std::lock_guard lock(mutex_);
    switch (event.kind) {
      case OutputEvent::Kind::kDelta:
        text_ += event.text;
        if (!stream_) break;
        std::fwrite(event.text.data(), 1, event.text.size(), stdout);
        std::fflush(stdout);
        break;
      case OutputEvent::Kind::kChoiceFinished:
        reason_ = event.reason;
        break;
      case OutputEvent::Kind::kFinished:
        finished_ = std::move(event);
        changed_.notify_all();
        break;
      default:
        break;
    }
  }

  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return finished_.has_value(); });
  }

  // After Wait.
  const std::string& text() const { return text_; }
  const OutputEvent& finished() const { return *finished_; }
  scheduler::FinishReason reason() const { return reason_; }

 private:
  const bool stream_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  scheduler::FinishReason reason_ = scheduler::FinishReason::kAborted;
  std::optional<OutputEvent> finished_;
};

// What a signal does: it ends the process, or the answer once there is one to end.
class Interruption {
 public:
  void SetCancel(std::function<void()> cancel) {
    const std::lock_guard lock(mutex_);
    cancel_ = std::move(cancel);
  }
  void OnSignal() {
    const std::lock_guard lock(mutex_);
    if (!cancel_) _exit(kInterrupted);
    happened_ = true;
    cancel_();
  }
  bool happened() {
    const std::lock_guard lock(mutex_);
    return happened_;
  }

 private:
  std::mutex mutex_;
  std::function<void()> cancel_;
  bool happened_ = false;
};

absl::StatusOr<std::string> ReadPrompt(const RunArguments& run) {
  if (run.prompt.has_value() && *run.prompt != "-") return *run.prompt;
  if (!run.prompt.has_value() && isatty(STDIN_FILENO) == 1) {
    return absl::InvalidArgumentError(
        "there is no prompt; give -p \"text\", or pipe it in: echo text | tandem run");
  }
  std::string text((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

absl::StatusOr<GenerationSpec> MakeSpec(const Settings& settings, const ModelSource& source,
                                        const Tokenizer& tokenizer, const std::string& text) {
  const RunArguments& run = settings.run;
  GenerationSpec spec;
  if (run.raw || !IsInstruct(source.config, tokenizer)) {
    spec.prompt = TextPrompt{.text = text};
  } else {
    const ChatPrompt chat = {.messages = {{.role = ChatRole::kUser, .content = text}}};
    absl::StatusOr<RenderedChat> rendered = RenderChat(chat, ChatFormatOf(source));
    if (!rendered.ok()) return rendered.status();
    SetChat(*std::move(rendered), /*separate_reasoning=*/false, spec);
  }
  engine::SamplingParams& sampling = spec.request.sampling;
  sampling = DefaultSampling(settings, source.config);
  if (run.temperature.has_value()) sampling.temperature = static_cast<float>(*run.temperature);
  if (run.top_k.has_value()) sampling.top_k = *run.top_k;
  if (run.top_p.has_value()) sampling.top_p = static_cast<float>(*run.top_p);
  if (run.min_p.has_value()) sampling.min_p = static_cast<float>(*run.min_p);
  sampling.seed = run.seed.value_or(RandomBits());
  spec.request.stop.max_tokens = run.max_tokens > 0 ? run.max_tokens : -1;
  spec.request.stop.eos_ids = source.config.generation.eos_ids;
  spec.request.speculation = DefaultSpeculation(settings, source.assistant);
  spec.request.client_id = "run";
  spec.stop = run.stop;
  return spec;
}

void PrintJson(const Answer& answer, const std::string& model, uint64_t seed, bool speculates) {
  const scheduler::RequestStats& stats = answer.finished().stats;
  nlohmann::ordered_json json = {{"model", model},
                                 {"text", answer.text()},
                                 {"finish_reason", scheduler::FinishReasonName(answer.reason())},
                                 {"seed", seed},
                                 {"prompt_tokens", stats.prompt_tokens},
                                 {"completion_tokens", stats.completion_tokens},
                                 {"ttft_ms", stats.ttft_us / 1000.0},
                                 {"total_ms", stats.total_us / 1000.0}};
  if (speculates) {
    json["drafted_tokens"] = stats.drafts.drafted;
    json["accepted_tokens"] = stats.drafts.accepted;
    json["tokens_per_round"] = scheduler::TokensPerRound(stats.drafts);
  }
  std::printf("%s\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
}

void SayRates(const Console& console, const scheduler::RequestStats& stats) {
  const auto rate = [](int tokens, int64_t us) { return us > 0 ? tokens * 1e6 / us : 0.0; };
  const double in = rate(stats.prompt_tokens, stats.prefill_us);
  const double out = rate(stats.completion_tokens - 1, stats.decode_us);
  std::string text = absl::StrFormat("%d tokens in at %.1f tok/s, %d out at %.1f tok/s",
                                     stats.prompt_tokens, in, stats.completion_tokens, out);
  if (stats.drafts.drafted > 0) {
    text += absl::StrFormat("; %d of %d guesses held, %.2f tokens per round", stats.drafts.accepted,
                            stats.drafts.drafted, scheduler::TokensPerRound(stats.drafts));
  }
  console.Note("done", text,
               absl::StrFormat("prompt_tokens=%d prompt_tok_per_s=%.1f completion_tokens=%d "
                               "generation_tok_per_s=%.1f drafted=%d accepted=%d",
                               stats.prompt_tokens, in, stats.completion_tokens, out,
                               stats.drafts.drafted, stats.drafts.accepted));
}

}  // namespace

absl::StatusOr<int> RunOnce(const Settings& settings, const Terminal& terminal) {
  BlockStopSignals();
  Interruption interruption;
  const SignalWatcher watcher([&](int) { interruption.OnSignal(); });
  absl::StatusOr<std::string> prompt = ReadPrompt(settings.run);
  if (!prompt.ok()) return prompt.status();
  if (!IsValidUtf8(*prompt)) return absl::InvalidArgumentError("the prompt is not valid UTF-8");
  absl::StatusOr<ModelSource> source = FindModel(settings);
  if (!source.ok()) return source.status();
  absl::StatusOr<Tokenizer> tokenizer = LoadTokenizers(settings, *source);
  if (!tokenizer.ok()) return tokenizer.status();
  absl::StatusOr<GenerationSpec> spec = MakeSpec(settings, *source, *tokenizer, *prompt);
  if (!spec.ok()) return spec.status();
  const Console console(terminal, /*quiet=*/true);
  ModelStart start;
  start.memory = MemoryRequestOf(settings, *source, settings.max_slots);
  start.scheduler = [&](const scheduler::ModelLimits&) {
    return scheduler::SchedulerConfig{.max_slots = 1, .max_step_rows = settings.max_step_rows};
  };
  start.text.text_threads = 1;
  absl::StatusOr<std::unique_ptr<RunningModel>> running = RunningModel::Start(
      settings, *std::move(source), *std::move(tokenizer), console, std::move(start));
  if (!running.ok()) return running.status();
  RunningModel& model = **running;

  Answer answer(/*stream=*/!settings.json);
  spec->request.arrival_us = model.scheduler().now_us();
  const uint64_t seed = spec->request.sampling.seed;
  Generator& generator = model.generator();
  const Generator::Handle handle = generator.Start(
      *std::move(spec), [&](OutputEvent event) { answer.OnEvent(std::move(event)); });
  interruption.SetCancel(
      [&, handle] { generator.Cancel(handle, scheduler::CancelCause::kAborted); });
  answer.Wait();
  interruption.SetCancel(nullptr);
  model.Stop();

  if (!settings.json && !answer.text().empty() && answer.text().back() != '\n') std::puts("");
  if (interruption.happened()) return kInterrupted;
  if (!answer.finished().status.ok()) return answer.finished().status;
  if (settings.json)
    PrintJson(answer, model.source().name, seed, model.source().assistant.has_value());
  SayRates(console, answer.finished().stats);
  return 0;
}

}  // namespace tandem::server
