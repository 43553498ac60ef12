// The whole answer to a Generate call, gathered event by event.
//
// Threads   one at a time.
#pragma once

#include <cstdint>

#include "server/grpc/answer_messages.h"
#include "tandem/v1/generate.pb.h"

namespace tandem::server {

class UnaryAnswer {
 public:
  //   unix_s   for GenerateResponse.created
  UnaryAnswer(AnswerFacts facts, int64_t unix_s);

  void Add(const OutputEvent& event);
  // Complete once kFinished with an OK status was added.
  const v1::GenerateResponse& response() const { return response_; }

 private:
  const AnswerFacts facts_;
  v1::GenerateResponse response_;
};

}  // namespace tandem::server
