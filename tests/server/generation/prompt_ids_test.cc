// What may be a prompt, and what the client is told otherwise.
#include "server/generation/prompt_ids.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/status_reason.h"
#include "tests/server/text/test_tokenizers.h"

namespace tandem::server {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

class PromptIdsTest : public testing::Test {
 protected:
  absl::StatusOr<std::vector<int32_t>> OfText(TextPrompt prompt, std::optional<int> keep = {}) {
    GenerationSpec spec;
    spec.prompt = std::move(prompt);
    spec.truncate_prompt_tokens = keep;
    return PromptIdsOf(spec, config_, model_);
  }
  absl::StatusOr<std::vector<int32_t>> OfIds(std::vector<int32_t> ids,
                                             std::optional<int> keep = {}) {
    GenerationSpec spec;
    spec.prompt = std::move(ids);
    spec.truncate_prompt_tokens = keep;
    return PromptIdsOf(spec, config_, model_);
  }
  static void ExpectRefused(const absl::StatusOr<std::vector<int32_t>>& ids,
                            const std::string& reason, const std::string& field,
                            const std::string& in_message) {
    ASSERT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(GetReason(ids.status()).reason, reason);
    EXPECT_EQ(GetReason(ids.status()).field, field);
    EXPECT_THAT(std::string(ids.status().message()), HasSubstr(in_message));
  }

  const Tokenizer tokenizer_ = SyntheticTokenizer();
  const int32_t turn_ = *tokenizer_.vocabulary().Find("<|turn>");
  GeneratorConfig config_ = {.max_context = 8, .max_prompt_bytes = 40};
  ModelText model_ = {.tokenizer = &tokenizer_,
                      .vocab_size = tokenizer_.vocab_size() + 10,
                      .invalid_prompt_ids = {3, turn_}};
};

TEST_F(PromptIdsTest, TextIsTokenizedBehindOneBos) {
  EXPECT_THAT(*OfText({.text = "hello world"}), ElementsAre(2, 15, 20));
  EXPECT_THAT(*OfText({.text = "hello", .add_bos = false}), ElementsAre(15));
  EXPECT_THAT(*OfText({.text = "<bos>hello", .parse_special = true}), ElementsAre(2, 15));
  EXPECT_THAT(*OfText({.text = "<bos>hello", .add_bos = false, .parse_special = true}),
              ElementsAre(2, 15));
}

TEST_F(PromptIdsTest, IdsAreTakenAsTheyAre) {
  // Ids that the model has and the tokenizer file does not are fine.
  EXPECT_THAT(*OfIds({15, tokenizer_.vocab_size() + 9, 0}),
              ElementsAre(15, tokenizer_.vocab_size() + 9, 0));
}

TEST_F(PromptIdsTest, TruncationKeepsTheEndAndTheBosInFrontOfAText) {
  EXPECT_THAT(*OfText({.text = "hello world hello"}, 2), ElementsAre(2, 8, 15));
  EXPECT_THAT(*OfText({.text = "<bos>hello world", .parse_special = true}, 1), ElementsAre(2, 20));
  EXPECT_THAT(*OfText({.text = "hello world", .add_bos = false}, 1), ElementsAre(20));
  EXPECT_THAT(*OfIds({2, 4, 5, 6}, 2), ElementsAre(5, 6));
  // Not more than there is.
  EXPECT_THAT(*OfIds({2, 4}, 2), ElementsAre(2, 4));
  EXPECT_THAT(*OfText({.text = "hello"}, 1), ElementsAre(2, 15));
  EXPECT_THAT(*OfText({.text = "hello"}, 100), ElementsAre(2, 15));
  ExpectRefused(OfIds({2, 4}, 0), "BAD_PARAMETER", "truncate_prompt_tokens", "is 0");
}

TEST_F(PromptIdsTest, TruncationMakesALongPromptFit) {
  const std::string text = "hhhhhhhhhh";
  ExpectRefused(OfText({.text = text}), "PROMPT_TOO_LONG", "prompt", "11 tokens but at most 7");
  EXPECT_EQ(OfText({.text = text}, 6)->size(), 7u);
  // The BOS counts.
  ExpectRefused(OfText({.text = text}, 7), "PROMPT_TOO_LONG", "prompt", "8 tokens but at most 7");
}

TEST_F(PromptIdsTest, ThePromptLeavesRoomForOneToken) {
  EXPECT_TRUE(OfIds(std::vector<int32_t>(7, 4)).ok());
  const auto refused = OfIds(std::vector<int32_t>(8, 4));
  ExpectRefused(refused, "PROMPT_TOO_LONG", "token_ids", "8 tokens but at most 7");
  EXPECT_THAT(GetReason(refused.status()).metadata,
              ElementsAre(Pair("max_prompt_tokens", "7"), Pair("prompt_tokens", "8")));
}

TEST_F(PromptIdsTest, EmptyPromptsAreRefused) {
  ExpectRefused(OfText({.text = ""}), "EMPTY_PROMPT", "prompt", "empty");
  ExpectRefused(OfIds({}), "EMPTY_PROMPT", "token_ids", "empty");
}

TEST_F(PromptIdsTest, IdsOutsideTheVocabularyAndMediaIdsAreRefusedByPlace) {
  ExpectRefused(OfIds({4, 5, 6, model_.vocab_size}), "BAD_TOKEN_ID", "token_ids[3]",
                "token_ids[3] is 289 but the vocabulary has ids 0 to 288");
  ExpectRefused(OfIds({-1}), "BAD_TOKEN_ID", "token_ids[0]", "is -1");
  ExpectRefused(OfIds({4, 3}), "BAD_TOKEN_ID", "token_ids[1]", "image or a sound");
  // Also where truncation would drop them, and where special text spells them.
  ExpectRefused(OfIds({3, 4, 4}, 1), "BAD_TOKEN_ID", "token_ids[0]", "is 3");
  ExpectRefused(OfText({.text = "hello<|turn>", .parse_special = true}), "BAD_TOKEN_ID", "prompt",
                "prompt token 2");
  // Spelled in ordinary text it is no media token.
  config_.max_context = 100;
  EXPECT_TRUE(OfText({.text = "hello<|turn>"}).ok());
}

TEST_F(PromptIdsTest, BrokenOrOversizedTextIsRefused) {
  ExpectRefused(OfText({.text = "hel\xFFlo"}), "BAD_PARAMETER", "prompt", "not valid UTF-8");
  ExpectRefused(OfText({.text = "hello\xE2\x96"}), "BAD_PARAMETER", "prompt", "not valid UTF-8");
  ExpectRefused(OfText({.text = std::string(41, 'h')}), "BAD_PARAMETER", "prompt",
                "41 bytes but at most 40");
}

}  // namespace
}  // namespace tandem::server
