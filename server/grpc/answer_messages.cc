#include "server/grpc/answer_messages.h"

#include "scheduler/draft_report.h"

namespace tandem::server {
namespace {

double Seconds(int64_t us) { return static_cast<double>(us) * 1e-6; }

std::string TokenBytes(int32_t id, const Vocabulary& vocabulary) {
  return vocabulary.Contains(id) ? std::string(vocabulary.Bytes(id)) : std::string();
}

template <class Message>
void FillTop(const engine::SampledToken& token, const Vocabulary& vocabulary, Message& message) {
  for (const engine::TopLogprob& top : token.top) {
    v1::TopLogprob* out = message.add_top();
    out->set_token_id(static_cast<uint32_t>(top.id));
    out->set_logprob(top.logprob);
    out->set_token_bytes(TokenBytes(top.id, vocabulary));
  }
}

}  // namespace

v1::Accepted ToAccepted(const OutputEvent& started, const AnswerFacts& facts) {
  v1::Accepted accepted;
  accepted.set_request_id(facts.request_id);
  accepted.set_model(facts.model);
  accepted.set_fingerprint(facts.fingerprint);
  accepted.set_prompt_tokens(static_cast<uint32_t>(started.prompt_ids.size()));
  accepted.set_cached_prompt_tokens(static_cast<uint32_t>(started.cached_prompt_tokens));
  accepted.set_queue_s(Seconds(started.queue_us));
  accepted.set_effective_seed(facts.seed);
  if (facts.report.prompt_token_ids) {
    accepted.mutable_prompt_token_ids()->Add(started.prompt_ids.begin(), started.prompt_ids.end());
  }
  return accepted;
}

v1::FinishReason ToFinishReason(scheduler::FinishReason reason) {
  switch (reason) {
    case scheduler::FinishReason::kStopEos:
      return v1::STOP_EOS;
    case scheduler::FinishReason::kStopToken:
      return v1::STOP_TOKEN;
    case scheduler::FinishReason::kStopString:
      return v1::STOP_STRING;
    case scheduler::FinishReason::kMaxTokens:
      return v1::MAX_TOKENS;
    case scheduler::FinishReason::kContextLength:
      return v1::CONTEXT_LENGTH;
    case scheduler::FinishReason::kTimeLimit:
      return v1::TIME_LIMIT;
    case scheduler::FinishReason::kToolCalls:
      return v1::TOOL_CALLS;
    case scheduler::FinishReason::kAborted:
      return v1::ABORTED;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

bool HasStopMatch(scheduler::FinishReason reason) {
  return reason == scheduler::FinishReason::kStopEos ||
         reason == scheduler::FinishReason::kStopToken ||
         reason == scheduler::FinishReason::kToolCalls ||
         reason == scheduler::FinishReason::kStopString;
}

void FillStopMatch(const OutputEvent& choice_finished, v1::StopMatch& match) {
  if (choice_finished.reason == scheduler::FinishReason::kStopString) {
    match.set_text(choice_finished.stop_text);
  } else if (HasStopMatch(choice_finished.reason)) {
    match.set_token_id(static_cast<uint32_t>(choice_finished.stop_id));
  }
}

v1::TokenLogprob ToTokenLogprob(const engine::SampledToken& token, const Vocabulary& vocabulary) {
  v1::TokenLogprob out;
  out.set_token_id(static_cast<uint32_t>(token.id));
  out.set_logprob(token.logprob);
  out.set_rank(static_cast<uint32_t>(token.rank));
  out.set_token_bytes(TokenBytes(token.id, vocabulary));
  FillTop(token, vocabulary, out);
  return out;
}

v1::PromptLogprob ToPromptLogprob(const engine::SampledToken& token, const Vocabulary& vocabulary) {
  v1::PromptLogprob out;
  out.set_token_id(static_cast<uint32_t>(token.id));
  out.set_logprob(token.logprob);
  FillTop(token, vocabulary, out);
  return out;
}

v1::PromptLogprob FirstPromptLogprob(int32_t id) {
  v1::PromptLogprob out;
  out.set_token_id(static_cast<uint32_t>(id));
  return out;
}

v1::Usage ToUsage(const scheduler::RequestStats& stats) {
  v1::Usage usage;
  usage.set_prompt_tokens(static_cast<uint32_t>(stats.prompt_tokens));
  usage.set_cached_prompt_tokens(static_cast<uint32_t>(stats.cached_prompt_tokens));
  usage.set_completion_tokens(static_cast<uint32_t>(stats.completion_tokens));
  usage.set_preemptions(static_cast<uint32_t>(stats.preemptions));
  usage.set_recomputed_tokens(static_cast<uint32_t>(stats.recomputed_tokens));
  return usage;
}

v1::Timing ToTiming(const scheduler::RequestStats& stats) {
  v1::Timing timing;
  timing.set_queue_s(Seconds(stats.queue_us));
  timing.set_prefill_s(Seconds(stats.prefill_us));
  timing.set_decode_s(Seconds(stats.decode_us));
  timing.set_ttft_s(Seconds(stats.ttft_us));
  timing.set_total_s(Seconds(stats.total_us));
  return timing;
}

v1::SpeculativeStats ToSpeculativeStats(const scheduler::DraftCounts& drafts,
                                        const scheduler::Speculation& speculation) {
  v1::SpeculativeStats stats;
  const bool enabled = speculation.mode != scheduler::Speculation::Mode::kOff;
  stats.set_enabled(enabled);
  if (enabled) stats.set_max_draft_tokens(static_cast<uint32_t>(speculation.max_draft_tokens));
  stats.set_steps(static_cast<uint32_t>(drafts.rounds));
  stats.set_steps_with_draft(static_cast<uint32_t>(drafts.rounds_with_draft));
  stats.set_drafted_tokens(static_cast<uint32_t>(drafts.drafted));
  stats.set_accepted_tokens(static_cast<uint32_t>(drafts.accepted));
  stats.set_discarded_tokens(static_cast<uint32_t>(drafts.discarded));
  for (int i = 0; i < scheduler::DraftedPositions(drafts); ++i) {
    stats.add_drafted_per_position(static_cast<uint32_t>(drafts.drafted_at[i]));
    stats.add_accepted_per_position(static_cast<uint32_t>(drafts.accepted_at[i]));
  }
  return stats;
}

}  // namespace tandem::server
