#include "server/grpc/unary_answer.h"

#include <utility>

namespace tandem::server {

UnaryAnswer::UnaryAnswer(AnswerFacts facts, int64_t unix_s) : facts_(std::move(facts)) {
  response_.set_request_id(facts_.request_id);
  response_.set_model(facts_.model);
  response_.set_fingerprint(facts_.fingerprint);
  response_.mutable_created()->set_seconds(unix_s);
  for (int i = 0; i < facts_.n; ++i) response_.add_choices()->set_index(static_cast<uint32_t>(i));
}

void UnaryAnswer::Add(const OutputEvent& event) {
  switch (event.kind) {
    case OutputEvent::Kind::kStarted:
      if (facts_.report.prompt_token_ids) {
        response_.mutable_prompt_token_ids()->Add(event.prompt_ids.begin(), event.prompt_ids.end());
      }
      if (facts_.prompt_logprobs && !event.prompt_ids.empty()) {
        *response_.add_prompt_logprobs() = FirstPromptLogprob(event.prompt_ids.front());
      }
      break;
    case OutputEvent::Kind::kPromptLogprobs:
      for (const engine::SampledToken& token : event.tokens) {
        *response_.add_prompt_logprobs() = ToPromptLogprob(token, *facts_.vocabulary);
      }
      break;
    case OutputEvent::Kind::kDelta: {
      v1::Choice& choice = *response_.mutable_choices(event.choice);
      choice.mutable_text()->append(event.text);
      for (const engine::SampledToken& token : event.tokens) {
        if (facts_.report.token_ids) choice.add_token_ids(static_cast<uint32_t>(token.id));
        if (facts_.logprobs) *choice.add_logprobs() = ToTokenLogprob(token, *facts_.vocabulary);
      }
      break;
    }
    case OutputEvent::Kind::kChoiceFinished: {
      v1::Choice& choice = *response_.mutable_choices(event.choice);
      choice.set_finish_reason(ToFinishReason(event.reason));
      if (HasStopMatch(event.reason)) FillStopMatch(event, *choice.mutable_stop_match());
      if (facts_.report.speculative_stats) {
        *choice.mutable_speculative() = ToSpeculativeStats(event.completion_tokens, 1);
      }
      break;
    }
    case OutputEvent::Kind::kFinished:
      *response_.mutable_usage() = ToUsage(event.stats);
      if (facts_.report.timing) *response_.mutable_timing() = ToTiming(event.stats);
      if (facts_.report.speculative_stats) {
        *response_.mutable_speculative() =
            ToSpeculativeStats(event.stats.completion_tokens, facts_.n);
      }
      break;
  }
}

}  // namespace tandem::server
