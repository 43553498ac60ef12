// From a prompt in text to text that streams: the part of the server that is not a wire protocol.
//
// In        a GenerationSpec from gRPC, or from `tandem run`.
// Out       OutputEvents, in order, on a thread of the text pool.
// Not here  gRPC and proto types (server/grpc); who runs next (scheduler/).
// Threads   Everything from any thread. Tokenizing, detokenizing, the search for stop strings
//           and the packing of deltas run on the text pool, never on the caller's thread and never
//           on the scheduler's. The events of one request are delivered one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "scheduler/admission.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"
#include "server/chat/chat_output.h"
#include "server/chat/render_chat.h"
#include "server/generation/tool_call_delta.h"
#include "server/text/tokenizer.h"

namespace tandem::server {

struct TextPrompt {
  std::string text;  // valid UTF-8
  bool add_bos = true;
  bool parse_special = false;
  std::vector<ByteSpan> client_spans = {};  // control tokens are not recognised there (RenderChat)
};

// Move-only: it holds the request's place in the queue.
struct GenerationSpec {
  std::variant<TextPrompt, std::vector<int32_t>> prompt;
  std::optional<int> truncate_prompt_tokens;  // keep the last k tokens (and the BOS that was added)
  scheduler::Request request;                 // all but `prompt`, which is filled from the above;
                                              // stop.max_tokens < 0: as many as the context allows
  bool text = true;                           // false: no detokenizing (then no stop strings)
  bool skip_special_tokens = true;
  std::vector<std::string> stop;  // stop strings
  bool include_stop = false;
  // A delta has at least so many tokens, but for the first and the last; and once it has, it is
  // held until its first token has waited so long, to merge more.
  int stream_interval_tokens = 1;
  int stream_interval_ms = 0;
  scheduler::Reservation reservation;  // from Scheduler::Reserve; without one, it is made when the
                                       // prompt has been read
  // The prompt is a rendered chat: the answer is taken apart into what is said, what is thought and
  // tool calls (with `text`; else there are only ids), and unless stop.eos_ids is empty every token
  // that ends a turn ends it.
  std::optional<ChatOutputRules> chat;
};

// Makes a rendered chat the prompt of `spec`, and its answer one of a chat.
//   separate_reasoning  ChatOutputRules
void SetChat(RenderedChat chat, bool separate_reasoning, GenerationSpec& spec);

struct OutputEvent {
  enum class Kind {
    kStarted,         // prompt_ids is filled; once, when the request's first row is about to run
    kPromptLogprobs,  // `tokens` score prompt positions first_position..
    kDelta,           // new `tokens` of `choice` and the text that became certain
    kChoiceFinished,  // after the last delta of `choice`
    kFinished,        // last event
  };
  Kind kind = Kind::kStarted;
  std::vector<int32_t> prompt_ids;
  int64_t queue_us = 0;          // with kStarted
  int cached_prompt_tokens = 0;  // with kStarted: of prompt_ids, found in the prefix cache
  int choice = 0;
  int position = 0;                       // completion tokens of the choice sent before this delta
  int first_position = 0;                 // with kPromptLogprobs
  std::string text;                       // of a chat: the content channel
  std::string reasoning;                  // of a chat: the thought channel
  std::vector<ToolCallDelta> tool_calls;  // of a chat
  std::vector<engine::SampledToken> tokens;
  int steps = 0;     // with kDelta: decode steps that made `tokens`
  int drafted = 0;   // with kDelta: guesses that these verified
  int accepted = 0;  // with kDelta: of them, held
  scheduler::FinishReason reason = scheduler::FinishReason::kAborted;
  std::string stop_text;          // with kStopString: the stop string that matched
  int32_t stop_id = -1;           // with kStopToken, kStopEos, kToolCalls
  int completion_tokens = 0;      // with kChoiceFinished
  scheduler::DraftCounts drafts;  // with kChoiceFinished: of the choice
  absl::Status status;            // with kFinished
  scheduler::RequestStats stats;  // with kFinished; completion_tokens and drafts count what was
                                  // delivered: a stop string ends a choice before the scheduler
};

// Where a request is.
struct RequestStatusView {
  bool tokenizing = false;  // the scheduler does not know it yet: only request.age_us is told
  scheduler::RequestView request;
};

using OutputSink = std::function<void(OutputEvent event)>;

struct GeneratorConfig {
  int text_threads = 2;
  int max_context = 0;         // tokens of prompt and completion together
  int default_max_tokens = 0;  // 0: as many as the context allows
  int64_t max_prompt_bytes = 4 << 20;
};

// What the text layer knows of the model.
struct ModelText {
  const Tokenizer* tokenizer = nullptr;
  int vocab_size = 0;
  std::vector<int32_t> invalid_prompt_ids;  // media tokens: refused in client-supplied token lists
};

class Generator {
 public:
  using Handle = uint64_t;

  Generator(const GeneratorConfig& config, const ModelText& model, scheduler::Scheduler& scheduler);
  // Cancels what is open (kDrain) and waits for the last kFinished: the scheduler must be running,
  // or have ended every request in Stop. Not to be called from a sink. No sink is called after it.
  ~Generator();
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  // Never fails and never blocks: what is wrong with the prompt, or a full queue, arrives as
  // kFinished with its status.
  Handle Start(GenerationSpec spec, OutputSink sink);

  // Idempotent; unknown or finished handles are ignored. The request still ends with kFinished.
  void Cancel(Handle handle, scheduler::CancelCause cause);

  // While the client reads too slowly, from any time on: Scheduler::Pause, Resume. Idempotent;
  // unknown or finished handles are ignored. What has been computed is still delivered.
  void Pause(Handle handle);
  void Resume(Handle handle);

  // Asks where a request is. `answer` is called once, on this thread or on the scheduler's, and
  // must return at once; nullopt: no such request is open.
  void Describe(Handle handle, std::function<void(std::optional<RequestStatusView>)> answer);

  // Runs `work`, which may take a while, on the text pool: Tokenize, Detokenize and CountTokens of
  // the service. One thread of the pool is kept for streams if it has two.
  void RunOnTextPool(std::function<void()> work);

  // The prompt checks of grpc-surface 2.4, without running anything; errors as in prompt_ids.h.
  absl::StatusOr<std::vector<int32_t>> PromptIds(const GenerationSpec& spec) const;

  int max_prompt_tokens() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::server
