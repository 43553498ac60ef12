#include "server/generation/choice_stream.h"

#include <algorithm>
#include <utility>

namespace tandem::server {

using scheduler::FinishReason;

ChoiceStream::ChoiceStream(const StreamRules& rules, StopMatcher stops)
    : rules_(&rules),
      detokenizer_(*rules.tokenizer, rules.skip_special_tokens),
      stops_(std::move(stops)) {}

void ChoiceStream::Push(engine::SampledToken token, Time now) {
  if (ended_.has_value()) return;
  const int32_t id = token.id;
  ++num_tokens_;
  if (pending_.tokens.empty()) first_pending_ = now;
  pending_.tokens.push_back(std::move(token));
  if (!rules_->text) return;

  const std::vector<int32_t>& stop_ids = rules_->stop_ids;
  if (std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end()) {
    // The answer's text ends before this token, and no stop string can end it any more.
    pending_.text += Flush(/*may_stop=*/false);
    if (rules_->include_stop) {
      pending_.text += detokenizer_.Push(id);
      pending_.text += detokenizer_.Finish();
    }
    return;
  }
  pending_.text += stops_.Push(detokenizer_.Push(id), num_tokens_ >= rules_->min_tokens);
  if (stops_.matched().has_value()) ended_ = FinishReason::kStopString;
}

void ChoiceStream::Finish(FinishReason reason) {
  if (ended_.has_value()) return;
  ended_ = reason;
  if (!rules_->text) return;
  pending_.text += Flush(num_tokens_ >= rules_->min_tokens);
  if (stops_.matched().has_value()) ended_ = FinishReason::kStopString;
}

std::string ChoiceStream::Flush(bool may_stop) {
  std::string text = stops_.Push(detokenizer_.Finish(), may_stop);
  return text + stops_.Finish();
}

std::optional<ChoiceStream::Time> ChoiceStream::DeltaDue() const {
  if (pending_.tokens.empty() && pending_.text.empty()) return std::nullopt;
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
