// The whole answer to a Generate or Chat call, gathered event by event.
//
// Threads   one at a time.
#pragma once

#include <cstdint>

#include "server/grpc/answer_messages.h"
#include "tandem/v1/chat.pb.h"
#include "tandem/v1/generate.pb.h"

namespace tandem::server {

// For v1::GenerateResponse and v1::ChatResponse.
template <class Response>
class UnaryAnswer {
 public:
  //   unix_s   for `created`
  UnaryAnswer(AnswerFacts facts, int64_t unix_s);

  void Add(const OutputEvent& event);
  // Complete once kFinished with an OK status was added.
  const Response& response() const { return response_; }

 private:
  const AnswerFacts facts_;
  Response response_;
};

extern template class UnaryAnswer<v1::GenerateResponse>;
extern template class UnaryAnswer<v1::ChatResponse>;

}  // namespace tandem::server
