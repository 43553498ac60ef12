#include "server/grpc/stream_mailbox.h"

#include <algorithm>
#include <string>
#include <type_traits>
#include <utility>

namespace tandem::server {
namespace {

// Clients with the smallest usual limit (4 MiB) and proxies in between stay out of trouble.
constexpr int64_t kMaxMessageBytes = 1 << 20;
constexpr size_t kMaxPieceBytes = kMaxMessageBytes / 2;
constexpr int64_t kEnvelopeBytes = 64;  // tags, lengths and the small numbers of a message
constexpr int64_t kIdBytes = 5;         // a varint of up to 32 bits

template <class Event>
constexpr bool kIsChat = std::is_same_v<Event, v1::ChatEvent>;

std::string* Text(v1::Delta& delta) { return delta.mutable_text(); }
std::string* Content(v1::ChatDelta& delta) { return delta.mutable_content(); }
std::string* Reasoning(v1::ChatDelta& delta) { return delta.mutable_reasoning(); }

// The longest prefix of `text` of at most `max_bytes` bytes that does not split a character.
size_t WholeCharacters(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text.size();
  size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return end;
}

}  // namespace

template <class Event>
typename StreamMailbox<Event>::Message& StreamMailbox<Event>::Push() {
  waiting_.emplace_back();
  Grow(waiting_.back(), kEnvelopeBytes);
  return waiting_.back();
}

template <class Event>
void StreamMailbox<Event>::Grow(Message& message, int64_t bytes) {
  message.bytes += bytes;
  waiting_bytes_ += bytes;
}

template <class Event>
void StreamMailbox<Event>::Add(const OutputEvent& event) {
  switch (event.kind) {
    case OutputEvent::Kind::kStarted: {
      prompt_tokens_ = static_cast<int>(event.prompt_ids.size());
      *Push().event.mutable_accepted() = ToAccepted(event, facts_);
      if (facts_.prompt_logprobs && prompt_tokens_ > 0) {
        AddPromptLogprob(0, FirstPromptLogprob(event.prompt_ids.front()));
      }
      break;
    }
    case OutputEvent::Kind::kPromptLogprobs:
      AddPromptLogprobs(event);
      break;
    case OutputEvent::Kind::kDelta:
      AddDelta(event);
      break;
    case OutputEvent::Kind::kChoiceFinished:
      AddChoiceFinished(event);
      break;
    case OutputEvent::Kind::kFinished: {
      if (!event.status.ok()) break;
      v1::Completed& completed = *Push().event.mutable_completed();
      *completed.mutable_usage() = ToUsage(event.stats);
      if (facts_.report.timing) *completed.mutable_timing() = ToTiming(event.stats);
      if (facts_.report.speculative_stats) {
        *completed.mutable_speculative() =
            ToSpeculativeStats(event.stats.drafts, facts_.speculation);
      }
      break;
    }
  }
}

template <class Event>
typename StreamMailbox<Event>::Message& StreamMailbox<Event>::DeltaWithRoom(int choice,
                                                                            int position,
                                                                            int64_t bytes) {
  if (static_cast<size_t>(choice) >= open_delta_.size()) open_delta_.resize(choice + 1);
  Message*& open = open_delta_[choice];
  if (open == nullptr || open->bytes + bytes > kMaxMessageBytes) {
    open = &Push();
    auto& delta = *open->event.mutable_delta();
    delta.set_index(static_cast<uint32_t>(choice));
    delta.set_position(static_cast<uint32_t>(position));
  }
  Grow(*open, bytes);
  return *open;
}

template <class Event>
void StreamMailbox<Event>::AddDelta(const OutputEvent& event) {
  int position = event.position;
  for (const engine::SampledToken& token : event.tokens) {
    v1::TokenLogprob logprob;
    int64_t bytes = facts_.report.token_ids ? kIdBytes : 0;
    if (facts_.logprobs) {
      logprob = ToTokenLogprob(token, *facts_.vocabulary);
      bytes += static_cast<int64_t>(logprob.ByteSizeLong()) + kIdBytes;
    }
    Message& message = DeltaWithRoom(event.choice, position, bytes);
    auto& delta = *message.event.mutable_delta();
    if (facts_.report.token_ids) delta.add_token_ids(static_cast<uint32_t>(token.id));
    if (facts_.logprobs) *delta.add_logprobs() = std::move(logprob);
    if (position == event.position) {
      delta.set_steps(delta.steps() + static_cast<uint32_t>(event.steps));
      delta.set_drafted_tokens(delta.drafted_tokens() + static_cast<uint32_t>(event.drafted));
      delta.set_accepted_tokens(delta.accepted_tokens() + static_cast<uint32_t>(event.accepted));
    }
    ++position;
    ++message.tokens;
    ++waiting_tokens_;
  }
  // Text goes after its ids, never before them.
  if constexpr (kIsChat<Event>) {
    AddText<v1::ChatDelta>(event.choice, position, event.reasoning, Reasoning);
    AddText<v1::ChatDelta>(event.choice, position, event.text, Content);
    for (const ToolCallDelta& call : event.tool_calls) AddToolCall(event.choice, position, call);
  } else {
    AddText<v1::Delta>(event.choice, position, event.text, Text);
  }
}

template <class Event>
template <class Delta>
void StreamMailbox<Event>::AddText(int choice, int position, std::string_view text,
                                   Channel<Delta> channel) {
  while (!text.empty()) {
    const size_t whole = WholeCharacters(text, kMaxPieceBytes);
    Message& message = DeltaWithRoom(choice, position, static_cast<int64_t>(whole));
    channel(*message.event.mutable_delta())->append(text.substr(0, whole));
    text.remove_prefix(whole);
  }
}

// Id and name come with the first piece of the arguments; the pieces concatenate.
template <class Event>
void StreamMailbox<Event>::AddToolCall(int choice, int position, const ToolCallDelta& call) {
  if constexpr (kIsChat<Event>) {
    std::string_view arguments = call.arguments;
    bool first = true;
    do {
      const size_t whole = WholeCharacters(arguments, kMaxPieceBytes);
      const size_t bytes = whole + kEnvelopeBytes + (first ? call.id.size() + call.name.size() : 0);
      Message& message = DeltaWithRoom(choice, position, static_cast<int64_t>(bytes));
      v1::ToolCallDelta& out = *message.event.mutable_delta()->add_tool_calls();
      out.set_call_index(static_cast<uint32_t>(call.call_index));
      if (first) {
        out.set_id(call.id);
        out.set_name(call.name);
      }
      out.set_arguments_delta(std::string(arguments.substr(0, whole)));
      arguments.remove_prefix(whole);
      first = false;
    } while (!arguments.empty());
  }
}

template <class Event>
void StreamMailbox<Event>::AddChoiceFinished(const OutputEvent& event) {
  if (static_cast<size_t>(event.choice) >= open_delta_.size()) open_delta_.resize(event.choice + 1);
  open_delta_[event.choice] = nullptr;
  v1::ChoiceFinished& finished = *Push().event.mutable_choice_finished();
  finished.set_index(static_cast<uint32_t>(event.choice));
  finished.set_finish_reason(ToFinishReason(event.reason));
  if (HasStopMatch(event.reason)) FillStopMatch(event, *finished.mutable_stop_match());
  finished.set_completion_tokens(static_cast<uint32_t>(event.completion_tokens));
  if (facts_.report.speculative_stats) {
    *finished.mutable_speculative() = ToSpeculativeStats(event.drafts, facts_.speculation);
  }
}

template <class Event>
void StreamMailbox<Event>::AddPromptLogprobs(const OutputEvent& event) {
  int position = event.first_position;
  for (const engine::SampledToken& token : event.tokens) {
    AddPromptLogprob(position++, ToPromptLogprob(token, *facts_.vocabulary));
  }
}

// ChatEvents have no place for them: ParseChatRequest refuses the wish.
template <class Event>
void StreamMailbox<Event>::AddPromptLogprob(int position, v1::PromptLogprob item) {
  if constexpr (!kIsChat<Event>) {
    const int64_t bytes = static_cast<int64_t>(item.ByteSizeLong()) + kIdBytes;
    if (open_prompt_ == nullptr || open_prompt_->bytes + bytes > kMaxMessageBytes) {
      open_prompt_ = &Push();
      open_prompt_->event.mutable_prompt_logprobs()->set_first_position(
          static_cast<uint32_t>(position));
    }
    Grow(*open_prompt_, bytes);
    v1::PromptLogprobs& message = *open_prompt_->event.mutable_prompt_logprobs();
    *message.add_items() = std::move(item);
    if (position + 1 == prompt_tokens_) message.set_last(true);
  }
}

template <class Event>
Event StreamMailbox<Event>::Pop() {
  Message& front = waiting_.front();
  Event event = std::move(front.event);
  event.set_seq(next_seq_++);
  waiting_bytes_ -= front.bytes;
  waiting_tokens_ -= front.tokens;
  if (event.has_delta()) {
    Message*& open = open_delta_[event.delta().index()];
    if (open == &front) open = nullptr;
  }
  if (open_prompt_ == &front) open_prompt_ = nullptr;
  waiting_.pop_front();
  return event;
}

template <class Event>
void StreamMailbox<Event>::Clear() {
  waiting_.clear();
  std::fill(open_delta_.begin(), open_delta_.end(), nullptr);
  open_prompt_ = nullptr;
  waiting_tokens_ = waiting_bytes_ = 0;
}

template class StreamMailbox<v1::GenerateEvent>;
template class StreamMailbox<v1::ChatEvent>;

}  // namespace tandem::server
