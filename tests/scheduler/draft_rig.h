// A rig with a drafter.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <utility>

#include "tests/scheduler/rig.h"

namespace tandem::scheduler {

using Guess = std::function<engine::Draft(const GuessQuery&)>;

// Guesses of which the first `right` hold and no other.
inline Guess RightFor(int right) {
  return [right](const GuessQuery& query) {
    engine::Draft draft = {.ids = RightGuesses(query)};
    for (size_t i = right; i < draft.ids.size(); ++i) {
      draft.ids[i] = (draft.ids[i] + 1) % query.vocab_size;
    }
    return draft;
  };
}
inline const Guess kAllRight = RightFor(kMaxDraftTokens);
inline const Guess kAllWrong = RightFor(0);

// A rig with a drafter, whose requests draft `max_draft_tokens` a round unless they say otherwise.
struct DraftRig : Rig {
  explicit DraftRig(int max_draft_tokens = 4, Guess guess = kAllRight) : guess(std::move(guess)) {
    config.max_draft_tokens = max_draft_tokens;
  }
  void Start() {
    Rig::Start();
    device->guess = guess;
  }
  Request NewRequest(int prompt_tokens, int max_tokens) const {
    Request request = Rig::NewRequest(prompt_tokens, max_tokens);
    request.speculation = {.mode = Speculation::Mode::kFixed};
    request.logprobs.enabled = true;
    return request;
  }
  RequestId Submit(const Request& request) { return Rig::Submit(request); }
  RequestId Submit(int prompt_tokens, int max_tokens) {
    return Rig::Submit(NewRequest(prompt_tokens, max_tokens));
  }
  // All right, every guess counted once, and what was told adds up.
  void ExpectAllRight() const {
    Rig::ExpectAllRight();
    const DraftCounts drafts = scheduler->stats().drafts;
    EXPECT_EQ(drafts.drafted + drafts.discarded, device->guessed);
    int64_t tokens = 0;
    for (const auto& recorder : recorders) tokens += recorder->tokens;
    EXPECT_EQ(scheduler->stats().generated_tokens_total, tokens);
  }

  Guess guess;
};

}  // namespace tandem::scheduler
