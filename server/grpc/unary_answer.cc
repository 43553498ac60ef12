#include "server/grpc/unary_answer.h"

#include <string>
#include <type_traits>
#include <utility>

namespace tandem::server {
namespace {

void AddContent(const OutputEvent& delta, v1::Choice& choice) {
  choice.mutable_text()->append(delta.text);
}

void AddContent(const OutputEvent& delta, v1::ChatChoice& choice) {
  v1::ChatMessage& message = *choice.mutable_message();
  message.mutable_content()->append(delta.text);
  message.mutable_reasoning()->append(delta.reasoning);
  for (const ToolCallDelta& call : delta.tool_calls) {
    while (message.tool_calls_size() <= call.call_index) message.add_tool_calls();
    v1::ToolCall& out = *message.mutable_tool_calls(call.call_index);
    out.mutable_id()->append(call.id);
    out.mutable_name()->append(call.name);
    out.mutable_arguments_json()->append(call.arguments);
  }
}

}  // namespace

template <class Response>
UnaryAnswer<Response>::UnaryAnswer(AnswerFacts facts, int64_t unix_s) : facts_(std::move(facts)) {
  response_.set_request_id(facts_.request_id);
  response_.set_model(facts_.model);
  response_.set_fingerprint(facts_.fingerprint);
  response_.mutable_created()->set_seconds(unix_s);
  for (int i = 0; i < facts_.n; ++i) {
    auto& choice = *response_.add_choices();
    choice.set_index(static_cast<uint32_t>(i));
    if constexpr (std::is_same_v<Response, v1::ChatResponse>) {
      choice.mutable_message()->set_role(v1::ASSISTANT);
    }
  }
}

template <class Response>
void UnaryAnswer<Response>::Add(const OutputEvent& event) {
  switch (event.kind) {
    // What the prompt was has no place in the answer to a Chat: ParseChatRequest refuses the wish.
    case OutputEvent::Kind::kStarted:
      if constexpr (std::is_same_v<Response, v1::GenerateResponse>) {
        if (facts_.report.prompt_token_ids) {
          response_.mutable_prompt_token_ids()->Add(event.prompt_ids.begin(),
                                                    event.prompt_ids.end());
        }
        if (facts_.prompt_logprobs && !event.prompt_ids.empty()) {
          *response_.add_prompt_logprobs() = FirstPromptLogprob(event.prompt_ids.front());
        }
      }
      break;
    case OutputEvent::Kind::kPromptLogprobs:
      if constexpr (std::is_same_v<Response, v1::GenerateResponse>) {
        for (const engine::SampledToken& token : event.tokens) {
          *response_.add_prompt_logprobs() = ToPromptLogprob(token, *facts_.vocabulary);
        }
      }
      break;
    case OutputEvent::Kind::kDelta: {
      auto& choice = *response_.mutable_choices(event.choice);
      AddContent(event, choice);
      for (const engine::SampledToken& token : event.tokens) {
        if (facts_.report.token_ids) choice.add_token_ids(static_cast<uint32_t>(token.id));
        if (facts_.logprobs) *choice.add_logprobs() = ToTokenLogprob(token, *facts_.vocabulary);
      }
      break;
    }
    case OutputEvent::Kind::kChoiceFinished: {
      auto& choice = *response_.mutable_choices(event.choice);
      choice.set_finish_reason(ToFinishReason(event.reason));
      if (HasStopMatch(event.reason)) FillStopMatch(event, *choice.mutable_stop_match());
      if (facts_.report.speculative_stats) {
        *choice.mutable_speculative() = ToSpeculativeStats(event.drafts, facts_.speculation);
      }
      break;
    }
    case OutputEvent::Kind::kFinished:
      *response_.mutable_usage() = ToUsage(event.stats);
      if (facts_.report.timing) *response_.mutable_timing() = ToTiming(event.stats);
      if (facts_.report.speculative_stats) {
        *response_.mutable_speculative() =
            ToSpeculativeStats(event.stats.drafts, facts_.speculation);
      }
      break;
  }
}

template class UnaryAnswer<v1::GenerateResponse>;
template class UnaryAnswer<v1::ChatResponse>;

}  // namespace tandem::server
