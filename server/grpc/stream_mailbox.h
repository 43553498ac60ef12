// What a stream still has to send, in order, tokens merged while the client is not ready for more.
//
// In        the OutputEvents of one request.
// Out       GenerateEvents or ChatEvents, numbered in the order they leave, each below 1 MiB.
// Not here  when to write (generate_reactors.h).
// Threads   the caller's lock.
//
// A delta joins the one of its choice that is still waiting: deltas are disjoint and concatenate,
// so a slow reader gets fewer and larger messages and the same text.
#pragma once

#include <cstdint>
#include <deque>
#include <string_view>
#include <vector>

#include "server/grpc/answer_messages.h"
#include "tandem/v1/chat.pb.h"
#include "tandem/v1/generate.pb.h"

namespace tandem::server {

// For v1::GenerateEvent and v1::ChatEvent.
template <class Event>
class StreamMailbox {
 public:
  explicit StreamMailbox(AnswerFacts facts) : facts_(std::move(facts)) {}

  // kFinished adds the closing message when its status is OK, and nothing otherwise.
  void Add(const OutputEvent& event);

  bool empty() const { return waiting_.empty(); }
  // The next message. Not when empty.
  Event Pop();
  void Clear();

  // How far the reader lags behind.
  int64_t waiting_tokens() const { return waiting_tokens_; }
  int64_t waiting_bytes() const { return waiting_bytes_; }

 private:
  struct Message {
    Event event;
    int64_t bytes = 0;  // about its size on the wire
    int64_t tokens = 0;
  };
  // Where one channel of an answer's text goes: the field of a delta.
  template <class Delta>
  using Channel = std::string* (*)(Delta& delta);

  Message& Push();
  void AddDelta(const OutputEvent& event);
  // Appends `text` in pieces that fit; `position` is that of a delta begun for it.
  template <class Delta>
  void AddText(int choice, int position, std::string_view text, Channel<Delta> channel);
  void AddToolCall(int choice, int position, const ToolCallDelta& call);
  void AddChoiceFinished(const OutputEvent& event);
  void AddPromptLogprobs(const OutputEvent& event);
  void AddPromptLogprob(int position, v1::PromptLogprob item);
  // The waiting delta of `choice` that has room for `bytes` more, or a new one.
  Message& DeltaWithRoom(int choice, int position, int64_t bytes);
  void Grow(Message& message, int64_t bytes);

  const AnswerFacts facts_;
  std::deque<Message> waiting_;
  std::vector<Message*> open_delta_;  // by choice; in waiting_, or null
  Message* open_prompt_ = nullptr;    // in waiting_, or null
  int prompt_tokens_ = 0;
  uint64_t next_seq_ = 0;
  int64_t waiting_tokens_ = 0;
  int64_t waiting_bytes_ = 0;
};

extern template class StreamMailbox<v1::GenerateEvent>;
extern template class StreamMailbox<v1::ChatEvent>;

}  // namespace tandem::server
