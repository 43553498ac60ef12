// OutputEvents as the messages of a Generate answer, whole or streamed.
//
// Threads   pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "server/generation/generator.h"
#include "server/grpc/params_parser.h"
#include "server/text/vocabulary.h"
#include "tandem/v1/generate.pb.h"

namespace tandem::server {

// What the answers to one request have in common.
struct AnswerFacts {
  std::string request_id;
  std::string model;
  std::string fingerprint;
  uint64_t seed = 0;
  int n = 1;  // choices
  bool logprobs = false;
  bool prompt_logprobs = false;
  scheduler::Speculation speculation = {.mode = scheduler::Speculation::Mode::kOff};
  ReportOptions report;
  const Vocabulary* vocabulary = nullptr;  // for token_bytes
};

v1::Accepted ToAccepted(const OutputEvent& started, const AnswerFacts& facts);
v1::FinishReason ToFinishReason(scheduler::FinishReason reason);
// Sets nothing for reasons that match nothing.
void FillStopMatch(const OutputEvent& choice_finished, v1::StopMatch& match);
bool HasStopMatch(scheduler::FinishReason reason);
v1::TokenLogprob ToTokenLogprob(const engine::SampledToken& token, const Vocabulary& vocabulary);
v1::PromptLogprob ToPromptLogprob(const engine::SampledToken& token, const Vocabulary& vocabulary);
// The first token of a prompt, which has no log-probability.
v1::PromptLogprob FirstPromptLogprob(int32_t id);
v1::Usage ToUsage(const scheduler::RequestStats& stats);
v1::Timing ToTiming(const scheduler::RequestStats& stats);
// Of a choice, or of all choices of a request that was to draft as `speculation` says.
v1::SpeculativeStats ToSpeculativeStats(const scheduler::DraftCounts& drafts,
                                        const scheduler::Speculation& speculation);

}  // namespace tandem::server
