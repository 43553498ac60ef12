#include "server/generation/choice_stream.h"

#include <algorithm>
#include <utility>

#include "scheduler/draft_report.h"

namespace tandem::server {

using scheduler::FinishReason;

ChoiceStream::ChoiceStream(const StreamRules& rules, StopMatcher stops, int choice)
    : rules_(&rules),
      choice_(choice),
      detokenizer_(*rules.tokenizer, rules.skip_special_tokens),
      stops_(std::move(stops)) {
  if (!rules.chat.has_value()) return;
  chat_.emplace(*rules.tokenizer, rules.chat->starts_in_reasoning, rules.skip_special_tokens);
}

void ChoiceStream::Push(engine::SampledToken token, Time now) {
  if (ended_.has_value()) return;
  const int32_t id = token.id;
  last_id_ = id;
  ++num_tokens_;
  if (pending_.tokens.empty()) first_pending_ = now;
  pending_.tokens.push_back(std::move(token));
  if (!rules_->text) return;

  const std::vector<int32_t>& stop_ids = rules_->stop_ids;
  if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) {
    // The answer's text ends before this token, and no stop string can end it any more.
    Flush(/*may_stop=*/false);
    if (rules_->include_stop) {
      pending_.text += detokenizer_.Push(id);
      pending_.text += detokenizer_.Finish();
    }
    return;
  }
  const bool may_stop = num_tokens_ >= rules_->min_tokens;
  if (chat_.has_value()) {
    Take(chat_->Push(id), may_stop);
  } else {
    pending_.text += stops_.Push(detokenizer_.Push(id), may_stop);
  }
  if (stops_.matched().has_value()) ended_ = FinishReason::kStopString;
}

void ChoiceStream::CountStep(int tokens_before, int drafted, int accepted) {
  const int taken = num_tokens_ - tokens_before;
  const int verified = ended_.has_value() ? std::min(drafted, taken) : drafted;
  const int held = std::min(accepted, taken);
  ++pending_.steps;
  pending_.drafted += verified;
  pending_.accepted += held;
  scheduler::Count(drafts_, verified, held);
  drafts_.discarded += drafted - verified;
}

void ChoiceStream::Finish(FinishReason reason) {
  if (ended_.has_value()) return;
  ended_ = reason;
  if (!rules_->text) return;
  Flush(num_tokens_ >= rules_->min_tokens);
  if (stops_.matched().has_value()) {
    ended_ = FinishReason::kStopString;
  } else if (reason == FinishReason::kStopEos && num_tool_calls_ > 0 &&
             chat_->WaitsForTool(last_id_)) {
    ended_ = FinishReason::kToolCalls;
  }
}

void ChoiceStream::Flush(bool may_stop) {
  if (chat_.has_value()) {
    Take(chat_->Finish(), may_stop);
  } else {
    pending_.text += stops_.Push(detokenizer_.Finish(), may_stop);
  }
  EndChannel();
}

void ChoiceStream::Take(std::vector<ChatPiece> pieces, bool may_stop) {
  for (ChatPiece& piece : pieces) {
    if (stops_.matched().has_value()) return;
    if (piece.channel != channel_) EndChannel();
    channel_ = piece.channel;
    if (channel_ != ChatPiece::Channel::kToolCall) {
      TextOf(channel_) += stops_.Push(piece.text, may_stop);
      continue;
    }
    const int call_index = num_tool_calls_++;
    pending_.tool_calls.push_back({.call_index = call_index,
                                   .id = ToolCallId(rules_->request_id, choice_, call_index),
                                   .name = std::move(piece.call.name),
                                   .arguments = std::move(piece.call.arguments_json)});
  }
}

void ChoiceStream::EndChannel() { TextOf(channel_) += stops_.Finish(); }

std::string& ChoiceStream::TextOf(ChatPiece::Channel channel) {
  const bool apart = channel == ChatPiece::Channel::kReasoning && rules_->chat->separate_reasoning;
  return apart ? pending_.reasoning : pending_.text;
}

std::optional<ChoiceStream::Time> ChoiceStream::DeltaDue() const {
  if (pending_.tokens.empty() && pending_.text.empty() && pending_.reasoning.empty() &&
      pending_.tool_calls.empty()) {
    return std::nullopt;
  }
  if (!sent_any_ || ended_.has_value()) return Time::min();
  if (static_cast<int>(pending_.tokens.size()) < rules_->interval_tokens) return std::nullopt;
  return first_pending_ + rules_->interval;
}

Delta ChoiceStream::TakeDelta() {
  sent_any_ = true;
  pending_.position = num_tokens_ - static_cast<int>(pending_.tokens.size());
  return std::exchange(pending_, {});
}

}  // namespace tandem::server
