// Our tokenizer against what Hugging Face `tokenizers` computed on five small tokenizer.json files.

#include <fstream>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/text/detokenizer.h"
#include "server/text/tokenizer.h"
#include "test_tokenizers.h"

namespace tandem::server {
namespace {

class TokenizerGoldenTest : public testing::TestWithParam<std::string> {
 protected:
  const Tokenizer tokenizer_ = GoldenTokenizer(GetParam());
  const nlohmann::json golden_ =
      nlohmann::json::parse(std::ifstream(GoldenPath(GetParam(), "tokenizer_golden.json")));
};

TEST_P(TokenizerGoldenTest, EveryTextGivesTheReferenceIds) {
  ASSERT_GT(golden_["encode"].size(), 200u);
  for (const nlohmann::json& row : golden_["encode"]) {
    const auto text = row["text"].get<std::string>();
    SCOPED_TRACE(row["text"].dump());
    EXPECT_EQ(tokenizer_.Encode(text, /*parse_special=*/true).ids,
              row["ids"].get<std::vector<int32_t>>());
    EXPECT_EQ(tokenizer_.Encode(text, /*parse_special=*/false).ids,
              row["ids_no_special"].get<std::vector<int32_t>>());
  }
}

TEST_P(TokenizerGoldenTest, EveryIdListGivesTheReferenceText) {
  ASSERT_GE(golden_["decode"].size(), 60u);
  for (const char* part : {"encode", "decode"}) {
    for (const nlohmann::json& row : golden_[part]) {
      const auto ids = row["ids"].get<std::vector<int32_t>>();
      SCOPED_TRACE(row["ids"].dump());
      EXPECT_EQ(Decode(tokenizer_, ids, /*skip_special=*/false), row["decoded"].get<std::string>());
      EXPECT_EQ(Decode(tokenizer_, ids, /*skip_special=*/true),
                row["decoded_skip_special"].get<std::string>());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, TokenizerGoldenTest, testing::ValuesIn(kGoldenVariants),
                         [](const auto& info) {
                           return "Gemma" + info.param.substr(0, info.param.find('-'));
                         });

}  // namespace
}  // namespace tandem::server
