#include "bench/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace tandem::bench {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Le;

WorkloadSpec SpecOf(std::string_view prompt, std::string_view output) {
  WorkloadSpec spec;
  spec.prompt_tokens = ParseLengths(prompt).value();
  spec.output_tokens = ParseLengths(output).value();
  spec.seed = 11;
  for (int32_t id = 100; id < 600; ++id) spec.token_pool.push_back(id);
  spec.bos_id = 2;
  return spec;
}

TEST(WorkloadTest, ARequestDependsOnItsIndexAndNotOnThoseMadeBefore) {
  const WorkloadSpec spec = SpecOf("10-50", "5-9");
  // Given the requests made in order.
  std::vector<PlannedRequest> in_order;
  for (int i = 0; i < 20; ++i) in_order.push_back(PlanRequest(spec, /*run=*/3, i));
  // When one is made by itself.
  const PlannedRequest alone = PlanRequest(spec, 3, 17);
  // Then it is the same, and other requests, runs and seeds differ.
  EXPECT_EQ(alone.prompt_ids, in_order[17].prompt_ids);
  EXPECT_EQ(alone.output_tokens, in_order[17].output_tokens);
  EXPECT_EQ(alone.seed, in_order[17].seed);
  EXPECT_NE(alone.prompt_ids, in_order[16].prompt_ids);
  EXPECT_NE(alone.prompt_ids, PlanRequest(spec, 4, 17).prompt_ids);
  WorkloadSpec other = spec;
  other.seed = 12;
  EXPECT_NE(alone.prompt_ids, PlanRequest(other, 3, 17).prompt_ids);
}

TEST(WorkloadTest, PromptsBeginWithBosAndTakeTheRestFromThePool) {
  const WorkloadSpec spec = SpecOf("40", "8");
  const PlannedRequest request = PlanRequest(spec, 0, 0);
  ASSERT_EQ(request.prompt_ids.size(), 40u);
  EXPECT_EQ(request.prompt_ids[0], 2);
  EXPECT_THAT(std::vector<int32_t>(request.prompt_ids.begin() + 1, request.prompt_ids.end()),
              Each(AllOf(Ge(100), Le(599))));
  EXPECT_EQ(request.output_tokens, 8);
}

TEST(WorkloadTest, TheSharedPrefixIsTheSameInEveryRunAndTheRestIsNot) {
  WorkloadSpec spec = SpecOf("40", "8");
  spec.shared_prefix = 30;
  const auto a = PlanRequest(spec, 0, 0).prompt_ids;
  const auto b = PlanRequest(spec, 1, 5).prompt_ids;
  ASSERT_EQ(a.size(), 40u);
  EXPECT_TRUE(std::equal(a.begin(), a.begin() + 30, b.begin()));
  EXPECT_FALSE(std::equal(a.begin() + 30, a.end(), b.begin() + 30));
  // A prompt that is too short for it keeps one token of its own.
  spec.prompt_tokens = ParseLengths("10").value();
  EXPECT_NE(PlanRequest(spec, 0, 0).prompt_ids, PlanRequest(spec, 0, 1).prompt_ids);
}

TEST(WorkloadTest, LongTailsAreCutToTheContextAndFixedLengthsThatDoNotFitAreRefused) {
  WorkloadSpec spec = SpecOf("lognormal:300:2", "lognormal:100:2");
  spec.context_length = 256;
  EXPECT_TRUE(CheckFits(spec).ok());
  for (int i = 0; i < 200; ++i) {
    const PlannedRequest request = PlanRequest(spec, 0, i);
    EXPECT_GE(request.prompt_ids.size(), 1u);
    EXPECT_LE(request.prompt_ids.size() + request.output_tokens, 256u);
  }
  spec.prompt_tokens = ParseLengths("200-250").value();
  spec.output_tokens = ParseLengths("7").value();
  EXPECT_THAT(std::string(CheckFits(spec).message()),
              AllOf(HasSubstr("250"), HasSubstr("256"), HasSubstr("--prompt-tokens")));
  spec.output_tokens = ParseLengths("6").value();
  EXPECT_TRUE(CheckFits(spec).ok());
}

TEST(WorkloadTest, TenantsAndTextsTakeTurns) {
  WorkloadSpec spec = SpecOf("10", "4");
  spec.tenants = 2;
  spec.texts = {"a", "b", "c"};
  std::vector<std::string> tenants, texts;
  for (int i = 0; i < 4; ++i) {
    const PlannedRequest request = PlanRequest(spec, 0, i);
    tenants.push_back(request.tenant);
    texts.push_back(request.text);
    EXPECT_TRUE(request.prompt_ids.empty());
  }
  EXPECT_THAT(tenants, ElementsAre("tenant-0", "tenant-1", "tenant-0", "tenant-1"));
  EXPECT_THAT(texts, ElementsAre("a", "b", "c", "a"));
}

TEST(WorkloadTest, ThePoolTextIsPlainTextOfManyDifferentWords) {
  const std::string text = PoolText(1);
  EXPECT_EQ(text, PoolText(1));
  EXPECT_NE(text, PoolText(2));
  EXPECT_LT(text.size(), 1u << 20);
  EXPECT_TRUE(std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == ' ' || c == '.';
  }));
  EXPECT_THAT(PoolOf({5, 3, 5, 9, 3}), ElementsAre(3, 5, 9));
}

TEST(ParsePromptsTest, EachLineGivesItsPromptAndItsClass) {
  const auto prompts =
      ParsePrompts("{\"prompt\": \"one\", \"task\": \"sum\"}\n\n{\"x\": 1, \"prompt\": \"t\\nwo\"}");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  ASSERT_EQ(prompts->size(), 2u);
  EXPECT_EQ((*prompts)[0].text, "one");
  EXPECT_EQ((*prompts)[0].task, "sum");
  EXPECT_EQ((*prompts)[1].text, "t\nwo");
  EXPECT_EQ((*prompts)[1].task, "");
}

TEST(ParsePromptsTest, AMistakeIsToldWithItsLine) {
  for (const char* line :
       {"{", "[]", "7", "{\"text\": \"x\"}", "{\"prompt\": 3}", "{\"prompt\": \"\"}",
        "{\"prompt\": \"x\", \"task\": 3}"}) {
    const auto prompts = ParsePrompts("{\"prompt\": \"one\"}\n" + std::string(line) + "\n");
    EXPECT_THAT(std::string(prompts.status().message()), HasSubstr("line 2")) << line;
  }
  EXPECT_THAT(std::string(ParsePrompts("\n \n").status().message()), HasSubstr("no prompt"));
}

}  // namespace
}  // namespace tandem::bench
