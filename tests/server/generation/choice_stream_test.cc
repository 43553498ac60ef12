// Text, stop strings and the cutting into deltas, for one choice.
#include "server/generation/choice_stream.h"

#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/text/test_tokenizers.h"

namespace tandem::server {
namespace {

using scheduler::FinishReason;
using std::chrono::milliseconds;
using ::testing::ElementsAre;

constexpr ChoiceStream::Time kStart = {};

// Ids of the synthetic tokenizer.
constexpr int32_t kEos = 1, kH = 4, kL = 6, kO = 7, kSpace = 8, kHello = 15, kWorld = 20;
constexpr int32_t kF0 = 21, k9F = 22, k9A = 23, k80 = 24;

struct Shown {
  std::string text;
  std::vector<int32_t> ids;
  std::vector<int> delta_tokens;
  std::vector<std::string> delta_texts;
};

class ChoiceStreamTest : public testing::Test {
 protected:
  ChoiceStreamTest() {
    rules_.tokenizer = &tokenizer_;
    rules_.stop_ids = {kEos};
  }

  ChoiceStream Stream(std::vector<std::string> stops = {}) {
    absl::StatusOr<StopMatcher> matcher = StopMatcher::Create(stops, rules_.include_stop);
    EXPECT_TRUE(matcher.ok());
    return ChoiceStream(rules_, *std::move(matcher), /*choice=*/0);
  }

  // Pushes ids, one a millisecond, taking every delta when it is due; then ends the choice.
  Shown Show(ChoiceStream& stream, const std::vector<int32_t>& ids, FinishReason reason) {
    Shown shown;
    const auto take_due = [&](ChoiceStream::Time now) {
      if (!stream.DeltaDue().has_value() || *stream.DeltaDue() > now) return;
      const Delta delta = stream.TakeDelta();
      EXPECT_EQ(delta.position, static_cast<int>(shown.ids.size()));
      shown.text += delta.text;
      shown.delta_texts.push_back(delta.text);
      shown.delta_tokens.push_back(static_cast<int>(delta.tokens.size()));
      for (const engine::SampledToken& token : delta.tokens) shown.ids.push_back(token.id);
    };
    ChoiceStream::Time now = kStart;
    for (const int32_t id : ids) {
      engine::SampledToken token;
      token.id = id;
      stream.Push(std::move(token), now);
      take_due(now);
      now += milliseconds(1);
    }
    stream.Finish(reason);
    take_due(now);
    EXPECT_FALSE(stream.DeltaDue().has_value());
    EXPECT_EQ(stream.num_tokens(), static_cast<int>(shown.ids.size()));
    return shown;
  }

  const Tokenizer tokenizer_ = SyntheticTokenizer();
  const int32_t turn_ = *tokenizer_.vocabulary().Find("<|turn>");
  StreamRules rules_;
};

TEST_F(ChoiceStreamTest, EveryTokenIsADeltaOfItsOwn) {
  ChoiceStream stream = Stream();
  const Shown shown = Show(stream, {kHello, kWorld, kO}, FinishReason::kMaxTokens);
  EXPECT_THAT(shown.delta_texts, ElementsAre("hello", " world", "o"));
  EXPECT_THAT(shown.ids, ElementsAre(kHello, kWorld, kO));
  EXPECT_EQ(stream.ended(), FinishReason::kMaxTokens);
}

TEST_F(ChoiceStreamTest, TheTextOfAStopTokenIsHiddenUnlessAskedFor) {
  // Given a stop id that has text, and one byte of a character that never came.
  rules_.stop_ids = {kEos, kWorld};
  ChoiceStream hidden = Stream();
  EXPECT_EQ(Show(hidden, {kHello, kF0, kWorld}, FinishReason::kStopToken).text, "hello\uFFFD");
  // When it is asked for, then it follows what was before it.
  rules_.include_stop = true;
  ChoiceStream shown = Stream();
  EXPECT_EQ(Show(shown, {kHello, kF0, kWorld}, FinishReason::kStopToken).text, "hello\uFFFD world");
}

TEST_F(ChoiceStreamTest, EosCountsAndHasNoText) {
  ChoiceStream stream = Stream();
  const Shown shown = Show(stream, {kHello, kEos}, FinishReason::kStopEos);
  EXPECT_EQ(shown.text, "hello");
  EXPECT_THAT(shown.ids, ElementsAre(kHello, kEos));
  // Even where special tokens are shown, it is a stop.
  rules_.skip_special_tokens = false;
  ChoiceStream special = Stream();
  EXPECT_EQ(Show(special, {kHello, kEos}, FinishReason::kStopEos).text, "hello");
  rules_.include_stop = true;
  ChoiceStream included = Stream();
  EXPECT_EQ(Show(included, {kHello, kEos}, FinishReason::kStopEos).text, "hello<eos>");
}

TEST_F(ChoiceStreamTest, SpecialTokensAreShownOnRequest) {
  ChoiceStream skipped = Stream();
  EXPECT_EQ(Show(skipped, {kH, turn_, kO}, FinishReason::kMaxTokens).text, "ho");
  rules_.skip_special_tokens = false;
  ChoiceStream kept = Stream();
  EXPECT_EQ(Show(kept, {kH, turn_, kO}, FinishReason::kMaxTokens).text, "h<|turn>o");
}

TEST_F(ChoiceStreamTest, AStopStringAcrossTokensEndsTheTextBeforeIt) {
  // Given a stop that begins in one token and ends in the next, and two tokens after it.
  ChoiceStream stream = Stream({"lo w"});
  const Shown shown = Show(stream, {kHello, kWorld, kO, kO}, FinishReason::kMaxTokens);
  // Then the text ends before it, and what came later is dropped and not counted.
  EXPECT_EQ(shown.text, "hel");
  EXPECT_THAT(shown.ids, ElementsAre(kHello, kWorld));
  EXPECT_EQ(stream.ended(), FinishReason::kStopString);
  EXPECT_EQ(stream.stop_text(), "lo w");
}

TEST_F(ChoiceStreamTest, AStopStringIsPartOfTheTextOnRequest) {
  rules_.include_stop = true;
  ChoiceStream stream = Stream({"lo w"});
  EXPECT_EQ(Show(stream, {kHello, kWorld, kO}, FinishReason::kMaxTokens).text, "hello w");
}

TEST_F(ChoiceStreamTest, WithheldTextIsShownWhenNoStopComes) {
  ChoiceStream stream = Stream({"lo world!"});
  const Shown shown = Show(stream, {kHello, kWorld}, FinishReason::kMaxTokens);
  EXPECT_EQ(shown.text, "hello world");
  EXPECT_EQ(shown.delta_texts.front(), "hel");
  EXPECT_EQ(stream.ended(), FinishReason::kMaxTokens);
  // The last delta brings text alone.
  EXPECT_THAT(shown.delta_tokens, ElementsAre(1, 1, 0));
}

TEST_F(ChoiceStreamTest, CharactersOfSeveralTokensAreShownWhole) {
  ChoiceStream stream = Stream();
  const Shown shown = Show(stream, {kH, kF0, k9F, k9A, k80, kO}, FinishReason::kMaxTokens);
  EXPECT_THAT(shown.delta_texts, ElementsAre("h", "", "", "", "\U0001F680", "o"));
}

TEST_F(ChoiceStreamTest, HalfACharacterAtTheEndBecomesReplacementCharacters) {
  ChoiceStream stream = Stream();
  EXPECT_EQ(Show(stream, {kH, kF0, k9F}, FinishReason::kMaxTokens).text, "h\uFFFD\uFFFD");
}

TEST_F(ChoiceStreamTest, TheEndOfTheTextMayCompleteAStopString) {
  // Given a stop that only the replacement of a half character completes.
  ChoiceStream stream = Stream({"o\uFFFD"});
  const Shown shown = Show(stream, {kHello, kF0}, FinishReason::kMaxTokens);
  EXPECT_EQ(shown.text, "hell");
  EXPECT_EQ(stream.ended(), FinishReason::kStopString);
  // A stop by id goes before it.
  ChoiceStream by_id = Stream({"o\uFFFD"});
  EXPECT_EQ(Show(by_id, {kHello, kF0, kEos}, FinishReason::kStopEos).text, "hello\uFFFD");
  EXPECT_EQ(by_id.ended(), FinishReason::kStopEos);
}

TEST_F(ChoiceStreamTest, NoStopStringEndsBeforeMinTokens) {
  // Given min_tokens 3 and a stop in tokens 1, 2 and 3.
  rules_.min_tokens = 3;
  ChoiceStream stream = Stream({"hello"});
  const Shown shown = Show(stream, {kHello, kHello, kHello, kHello}, FinishReason::kMaxTokens);
  EXPECT_EQ(shown.ids.size(), 3u);
  EXPECT_EQ(shown.text, "hellohello");
  // And at the end of an answer that stayed below it.
  rules_.min_tokens = 10;
  ChoiceStream below = Stream({"\uFFFD"});
  EXPECT_EQ(Show(below, {kF0}, FinishReason::kContextLength).text, "\uFFFD");
  EXPECT_EQ(below.ended(), FinishReason::kContextLength);
}

TEST_F(ChoiceStreamTest, AStopStringGoesBeforeTheLimitsOnTheSameToken) {
  for (const FinishReason limit :
       {FinishReason::kMaxTokens, FinishReason::kContextLength, FinishReason::kTimeLimit}) {
    ChoiceStream stream = Stream({"world"});
    Show(stream, {kHello, kWorld}, limit);
    EXPECT_EQ(stream.ended(), FinishReason::kStopString);
  }
}

TEST_F(ChoiceStreamTest, DeltasHaveTheAskedSizeButTheFirstAndTheLast) {
  rules_.interval_tokens = 4;
  ChoiceStream stream = Stream();
  const Shown shown = Show(stream, std::vector<int32_t>(11, kL), FinishReason::kMaxTokens);
  EXPECT_THAT(shown.delta_tokens, ElementsAre(1, 4, 4, 2));
  EXPECT_EQ(shown.text, std::string(11, 'l'));
}

TEST_F(ChoiceStreamTest, DeltasAreHeldForTheInterval) {
  // Given a token a millisecond and an interval of 4: a held token waits 4, together with the rest.
  rules_.interval = milliseconds(4);
  ChoiceStream stream = Stream();
  const Shown shown = Show(stream, std::vector<int32_t>(13, kL), FinishReason::kMaxTokens);
  EXPECT_THAT(shown.delta_tokens, ElementsAre(1, 5, 5, 2));
}

TEST_F(ChoiceStreamTest, BothIntervalsMustBeMet) {
  rules_.interval = milliseconds(2);
  rules_.interval_tokens = 5;
  ChoiceStream by_count = Stream();
  EXPECT_THAT(Show(by_count, std::vector<int32_t>(12, kL), FinishReason::kMaxTokens).delta_tokens,
              ElementsAre(1, 5, 5, 1));
  rules_.interval_tokens = 2;
  ChoiceStream by_time = Stream();
  EXPECT_THAT(Show(by_time, std::vector<int32_t>(8, kL), FinishReason::kMaxTokens).delta_tokens,
              ElementsAre(1, 3, 3, 1));
}

TEST_F(ChoiceStreamTest, WithoutTextOnlyIdsAreShown) {
  rules_.text = false;
  ChoiceStream stream = Stream();
  const Shown shown = Show(stream, {kHello, kF0, kEos}, FinishReason::kStopEos);
  EXPECT_EQ(shown.text, "");
  EXPECT_THAT(shown.ids, ElementsAre(kHello, kF0, kEos));
}

TEST_F(ChoiceStreamTest, AChoiceWithoutTokensHasNoDelta) {
  ChoiceStream stream = Stream({"x"});
  EXPECT_TRUE(Show(stream, {}, FinishReason::kTimeLimit).delta_tokens.empty());
}

TEST_F(ChoiceStreamTest, StreamedTextIsTheDecodedTextHoweverItIsCut) {
  // Given random texts in the golden tokenizers' ids, and stops that never come.
  std::mt19937 rng(1);
  for (const std::string& variant : kGoldenVariants) {
    const Tokenizer tokenizer = GoldenTokenizer(variant);
    StreamRules rules;
    rules.tokenizer = &tokenizer;
    for (int round = 0; round < 40; ++round) {
      const std::string text = RandomText(rng, 60);
      const std::vector<int32_t> ids = tokenizer.Encode(text, false).ids;
      rules.interval_tokens = 1 + static_cast<int>(rng() % 5);
      rules.interval = milliseconds(rng() % 3);
      rules_ = rules;
      ChoiceStream stream = Stream({"#" + text, text + "."});
      // When streamed, then the deltas join to what decoding all ids at once gives.
      EXPECT_EQ(Show(stream, ids, FinishReason::kMaxTokens).text, Decode(tokenizer, ids, true));
    }
  }
}

}  // namespace
}  // namespace tandem::server
