// Answers to chats: channels, tool calls and stop strings, in a ChoiceStream and through a
// Generator.
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/status_reason.h"
#include "server/chat/chat_tokens.h"
#include "server/chat/render_chat.h"
#include "server/generation/choice_stream.h"
#include "tests/server/generation/generation_rig.h"
#include "tests/server/text/test_tokenizers.h"

namespace tandem::server {
namespace {

using scheduler::FinishReason;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct Answer {
  std::string text, reasoning;
  std::vector<std::string> calls;  // "index id name arguments"
  std::vector<int32_t> ids;
  std::optional<FinishReason> end;
};

class ChatStreamTest : public testing::Test {
 protected:
  ChatStreamTest() {
    rules_.tokenizer = &tokenizer_;
    rules_.stop_ids = StopIds(tokens_);
    rules_.chat = ChatOutputRules{.separate_reasoning = true};
    rules_.request_id = "request";
  }

  std::vector<int32_t> Ids(const std::string& answer) const {
    return tokenizer_.Encode(answer, /*parse_special=*/true).ids;
  }

  // Streams tokens, every `interval` of them a delta.
  Answer Show(const std::vector<int32_t>& ids, std::vector<std::string> stops = {},
              FinishReason reason = FinishReason::kStopEos, int interval = 1) {
    rules_.interval_tokens = interval;
    absl::StatusOr<StopMatcher> matcher = StopMatcher::Create(stops, rules_.include_stop);
    EXPECT_TRUE(matcher.ok());
    ChoiceStream stream(rules_, *std::move(matcher), /*choice=*/2);
    Answer answer;
    const auto take_due = [&] {
      if (!stream.DeltaDue().has_value()) return;
      const Delta delta = stream.TakeDelta();
      EXPECT_EQ(delta.position, static_cast<int>(answer.ids.size()));
      answer.text += delta.text;
      answer.reasoning += delta.reasoning;
      for (const ToolCallDelta& call : delta.tool_calls) {
        EXPECT_EQ(call.call_index, static_cast<int>(answer.calls.size()));
        EXPECT_EQ(call.id, ToolCallId("request", 2, call.call_index));
        answer.calls.push_back(call.name + call.arguments);
      }
      for (const engine::SampledToken& token : delta.tokens) answer.ids.push_back(token.id);
    };
    for (const int32_t id : ids) {
      engine::SampledToken token;
      token.id = id;
      stream.Push(std::move(token), {});
      take_due();
    }
    stream.Finish(reason);
    take_due();
    EXPECT_FALSE(stream.DeltaDue().has_value());
    answer.end = stream.ended();
    return answer;
  }
  Answer Show(const std::string& text, std::vector<std::string> stops = {},
              FinishReason reason = FinishReason::kStopEos) {
    return Show(Ids(text), std::move(stops), reason);
  }

  const Tokenizer& tokenizer_ = DemoTokenizer();
  const ChatTokens tokens_ = FindChatTokens(tokenizer_.vocabulary());
  StreamRules rules_;
};

TEST_F(ChatStreamTest, ChannelsAndCallsArriveApart) {
  const Answer answer = Show(
      "<|channel>thought\nhm.<channel|>I ask.<|tool_call>call:f{a:1}<tool_call|>"
      "<|tool_call>call:g{}<tool_call|><|tool_response>");
  EXPECT_EQ(answer.reasoning, "hm.");
  EXPECT_EQ(answer.text, "I ask.");
  EXPECT_THAT(answer.calls, ElementsAre("f{\"a\":1}", "g{}"));
  EXPECT_EQ(answer.end, FinishReason::kToolCalls);
}

TEST_F(ChatStreamTest, WhatIsThoughtIsPartOfTheTextUnlessItIsToBeApart) {
  rules_.chat->separate_reasoning = false;
  const Answer answer = Show("<|channel>thought\nhm.\n<channel|>Yes<turn|>");
  EXPECT_EQ(answer.text, "hm.\nYes");
  EXPECT_EQ(answer.reasoning, "");
}

TEST_F(ChatStreamTest, APromptMayHaveOpenedTheThought) {
  rules_.chat->starts_in_reasoning = true;
  const Answer answer = Show("hm<channel|>Yes<turn|>");
  EXPECT_EQ(answer.reasoning, "hm");
  EXPECT_EQ(answer.text, "Yes");
}

TEST_F(ChatStreamTest, OnlyACallAndTheWaitForItsResultEndWithToolCalls) {
  EXPECT_EQ(Show("<|tool_call>call:f{}<tool_call|><|tool_response>").end, FinishReason::kToolCalls);
  EXPECT_EQ(Show("<|tool_call>call:f{}<tool_call|><turn|>").end, FinishReason::kStopEos);
  EXPECT_EQ(Show("Hello<|tool_response>").end, FinishReason::kStopEos);
  EXPECT_EQ(Show("<|tool_call>call:f{}<tool_call|>", {}, FinishReason::kMaxTokens).end,
            FinishReason::kMaxTokens);
  // A call that is not understood is content.
  const Answer bad = Show("<|tool_call>call f<tool_call|><|tool_response>");
  EXPECT_EQ(bad.end, FinishReason::kStopEos);
  EXPECT_EQ(bad.text, "<|tool_call>call f<tool_call|>");
  EXPECT_THAT(bad.calls, IsEmpty());
}

TEST_F(ChatStreamTest, StopStringsEndWhatIsSaidAndWhatIsThought) {
  const Answer said = Show("<|channel>thought\nhm<channel|>one two three<turn|>", {"two"});
  EXPECT_EQ(said.text, "one ");
  EXPECT_EQ(said.end, FinishReason::kStopString);
  const Answer thought = Show("<|channel>thought\none two<channel|>three<turn|>", {"two"});
  EXPECT_EQ(thought.reasoning, "one ");
  EXPECT_EQ(thought.text, "");
  EXPECT_EQ(thought.end, FinishReason::kStopString);
}

TEST_F(ChatStreamTest, NoStopStringReachesAcrossChannelsOrIntoCalls) {
  const Answer across = Show("<|channel>thought\nab<channel|>cd<turn|>", {"bc"});
  EXPECT_EQ(across.reasoning, "ab");
  EXPECT_EQ(across.text, "cd");
  EXPECT_EQ(across.end, FinishReason::kStopEos);
  const Answer call =
      Show("ab<|tool_call>call:f{k:<|\"|>stop<|\"|>}<tool_call|>c<|tool_response>", {"stop", "bc"});
  EXPECT_EQ(call.text, "abc");
  EXPECT_THAT(call.calls, ElementsAre("f{\"k\":\"stop\"}"));
  EXPECT_EQ(call.end, FinishReason::kToolCalls);
}

TEST_F(ChatStreamTest, WithheldTextComesBeforeTheNextChannel) {
  // Given text that could become a stop string, up to a control token.
  rules_.interval_tokens = 1;
  absl::StatusOr<StopMatcher> matcher = StopMatcher::Create({"ab!"}, false);
  ChoiceStream stream(rules_, *std::move(matcher), 0);
  const auto push = [&](int32_t id) {
    engine::SampledToken token;
    token.id = id;
    stream.Push(std::move(token), {});
    return stream.TakeDelta();
  };
  std::string shown;
  for (const int32_t id : Ids("ab")) shown += push(id).text;
  EXPECT_EQ(shown, "");
  EXPECT_EQ(push(tokens_.channel_open).text, "");
  for (const int32_t id : Ids("thought\n")) shown += push(id).text;
  // Then it is shown before anything of the next channel is.
  for (const int32_t id : Ids("c")) {
    const Delta delta = push(id);
    EXPECT_EQ(delta.text, "ab");
    EXPECT_EQ(delta.reasoning, "c");
  }
}

TEST_F(ChatStreamTest, MinTokensHoldsForStopStringsOfAChat) {
  rules_.min_tokens = 1000;
  EXPECT_EQ(Show("one two<turn|>", {"two"}).text, "one two");
}

TEST_F(ChatStreamTest, WithoutTextThereAreOnlyIds) {
  rules_.text = false;
  const Answer answer = Show("<|channel>thought\nhm<channel|>x<|tool_call>call:f{}<tool_call|>");
  EXPECT_EQ(answer.text + answer.reasoning, "");
  EXPECT_THAT(answer.calls, IsEmpty());
  EXPECT_GT(answer.ids.size(), 5u);
}

TEST_F(ChatStreamTest, TheSizeOfDeltasChangesNothing) {
  std::mt19937 rng(9);
  const std::vector<std::string> kParts = {"<|channel>",
                                           "thought\n",
                                           "<channel|>",
                                           "Hello ",
                                           "stop",
                                           "st",
                                           "<|tool_call>call:f{a:<|\"|>stop<|\"|>}<tool_call|>",
                                           "<|tool_call>",
                                           "<tool_call|>",
                                           "\u00e9\U0001F680",
                                           "<|think|>",
                                           "\n"};
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (int i = static_cast<int>(rng() % 12); i > 0; --i) text += kParts[rng() % kParts.size()];
    const std::vector<int32_t> ids = Ids(text);
    const Answer one = Show(ids, {"stop here", "Hello st"}, FinishReason::kMaxTokens, 1);
    const Answer many = Show(ids, {"stop here", "Hello st"}, FinishReason::kMaxTokens,
                             2 + static_cast<int>(rng() % 50));
    ASSERT_EQ(one.text, many.text) << text;
    ASSERT_EQ(one.reasoning, many.reasoning) << text;
    ASSERT_EQ(one.calls, many.calls) << text;
    ASSERT_EQ(one.ids, many.ids) << text;
    ASSERT_EQ(one.end, many.end) << text;
  }
}

TEST(ToolCallIdTest, IdsAreReproducibleAndDifferByRequestChoiceAndCall) {
  EXPECT_EQ(ToolCallId("r", 0, 0), ToolCallId("r", 0, 0));
  std::vector<std::string> ids = {ToolCallId("r", 0, 0),  ToolCallId("s", 0, 0),
                                  ToolCallId("r", 1, 0),  ToolCallId("r", 0, 1),
                                  ToolCallId("r", 11, 1), ToolCallId("r", 1, 11)};
  for (const std::string& id : ids) EXPECT_THAT(id, testing::MatchesRegex("call_[0-9a-f]{16}"));
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::unique(ids.begin(), ids.end()), ids.end());
}

class ChatGeneratorTest : public testing::Test {
 protected:
  // A request whose prompt is `prompt` and whose answer is `answer`, written as text.
  GenerationSpec Spec(GenerationRig& rig, const ChatPrompt& prompt, const std::string& answer) {
    const absl::StatusOr<RenderedChat> rendered = RenderChat(prompt, {});
    EXPECT_TRUE(rendered.ok());
    GenerationSpec spec = rig.Spec(tokenizer_.Encode(answer, true).ids);
    spec.prompt = TextPrompt{
        .text = rendered->text, .parse_special = true, .client_spans = rendered->client_spans};
    spec.chat = ChatOutputRules{.starts_in_reasoning = rendered->starts_in_reasoning,
                                .separate_reasoning = true};
    spec.request.client_id = "request";
    return spec;
  }

  const Tokenizer& tokenizer_ = DemoTokenizer();
  const ChatTokens tokens_ = FindChatTokens(tokenizer_.vocabulary());
};

TEST_F(ChatGeneratorTest, AChatRunsFromMessagesToToolCalls) {
  GenerationRig rig(tokenizer_);
  const ChatPrompt prompt = {.messages = {{.content = "What is <turn|>?"}}};
  std::vector<ToolCallDelta> calls;
  std::string reasoning;
  Collector got;
  got.SetHook([&](const OutputEvent& event) {
    for (const ToolCallDelta& call : event.tool_calls) calls.push_back(call);
    reasoning += event.reasoning;
  });
  // Given a model that thinks, speaks and calls; its checkpoint lists only <eos> as an end.
  rig.Run(Spec(rig, prompt,
               "<|channel>thought\nhm<channel|>Let me see."
               "<|tool_call>call:look{at:<|\"|>it<|\"|>}<tool_call|><|tool_response>never"),
          got);
  ASSERT_TRUE(got.finish.status.ok()) << got.finish.status;
  // Then the client's <turn|> was text, and the answer ends where the model waits for the tool.
  EXPECT_EQ(std::count(got.prompt_ids.begin(), got.prompt_ids.end(), tokens_.turn_close), 1);
  EXPECT_EQ(got.prompt_ids.front(), tokenizer_.bos_id());
  EXPECT_EQ(got.choice(0).text, "Let me see.");
  EXPECT_EQ(reasoning, "hm");
  ASSERT_EQ(calls.size(), 1u);
  EXPECT_EQ(calls[0].name, "look");
  EXPECT_EQ(calls[0].arguments, "{\"at\":\"it\"}");
  EXPECT_EQ(calls[0].id, ToolCallId("request", 0, 0));
  EXPECT_EQ(got.choice(0).end.reason, FinishReason::kToolCalls);
  EXPECT_EQ(got.choice(0).end.stop_id, tokens_.tool_response_open);
}

TEST_F(ChatGeneratorTest, EveryTokenThatEndsATurnEndsTheAnswerUnlessNoneDoes) {
  GenerationRig rig(tokenizer_);
  const ChatPrompt prompt = {.messages = {{.content = "q"}}};
  for (const char* end : {"<eos>", "<turn|>", "<|turn>", "<|tool_response>"}) {
    Collector got;
    rig.Run(Spec(rig, prompt, std::string("a") + end + "b"), got);
    EXPECT_EQ(got.choice(0).text, "a") << end;
    EXPECT_EQ(got.choice(0).end.reason, FinishReason::kStopEos) << end;
  }
  GenerationSpec spec = Spec(rig, prompt, "a<turn|>b<|turn>c");
  spec.request.stop.eos_ids = {};  // ignore_eos
  spec.request.stop.max_tokens =
      static_cast<int>(tokenizer_.Encode("a<turn|>b<|turn>c", true).ids.size());
  Collector got;
  rig.Run(std::move(spec), got);
  EXPECT_EQ(got.choice(0).text, "abc");
  EXPECT_EQ(got.choice(0).end.reason, FinishReason::kMaxTokens);
}

TEST_F(ChatGeneratorTest, WhatIsWrongWithThePromptNamesTheMessages) {
  GenerationRig rig(tokenizer_, {.max_context = 16});
  const ChatPrompt prompt = {.messages = {{.content = std::string(400, 'x')}}};
  Collector got;
  rig.Run(Spec(rig, prompt, "a"), got);
  EXPECT_EQ(GetReason(got.finish.status).reason, "PROMPT_TOO_LONG");
  EXPECT_EQ(GetReason(got.finish.status).field, "messages");
}

}  // namespace
}  // namespace tandem::server
