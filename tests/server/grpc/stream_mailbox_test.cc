#include "server/grpc/stream_mailbox.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/text/test_tokenizers.h"

namespace tandem::server {
namespace {

using ::testing::ElementsAre;
using Kind = OutputEvent::Kind;

OutputEvent Started(std::vector<int32_t> prompt) {
  OutputEvent event;
  event.kind = Kind::kStarted;
  event.prompt_ids = std::move(prompt);
  event.queue_us = 1500;
  return event;
}

OutputEvent Delta(int choice, int position, std::vector<int32_t> ids, std::string text) {
  OutputEvent event;
  event.kind = Kind::kDelta;
  event.choice = choice;
  event.position = position;
  for (const int32_t id : ids) event.tokens.push_back({.id = id, .logprob = -0.5f, .rank = 2});
  event.text = std::move(text);
  return event;
}

OutputEvent ChoiceEnd(int choice, scheduler::FinishReason reason) {
  OutputEvent event;
  event.kind = Kind::kChoiceFinished;
  event.choice = choice;
  event.reason = reason;
  event.completion_tokens = 3;
  return event;
}

OutputEvent Finished(absl::Status status = absl::OkStatus()) {
  OutputEvent event;
  event.kind = Kind::kFinished;
  event.status = std::move(status);
  event.stats.prompt_tokens = 2;
  event.stats.completion_tokens = 5;
  event.stats.ttft_us = 250'000;
  return event;
}

OutputEvent PromptLogprobs(int first, int count) {
  OutputEvent event;
  event.kind = Kind::kPromptLogprobs;
  event.first_position = first;
  for (int i = 0; i < count; ++i) {
    event.tokens.push_back(
        {.id = i, .logprob = -1.0f, .rank = 1, .top = {{.id = 3, .logprob = -2}}});
  }
  return event;
}

template <class Event>
std::vector<Event> Drain(StreamMailbox<Event>& mailbox) {
  std::vector<Event> events;
  while (!mailbox.empty()) events.push_back(mailbox.Pop());
  return events;
}

class StreamMailboxTest : public ::testing::Test {
 protected:
  AnswerFacts Facts() {
    AnswerFacts facts;
    facts.request_id = "r";
    facts.model = "demo";
    facts.fingerprint = "f";
    facts.seed = 9;
    facts.vocabulary = &tokenizer_.vocabulary();
    return facts;
  }

  const Tokenizer tokenizer_ = SyntheticTokenizer();
};

TEST_F(StreamMailboxTest, MessagesLeaveInOrderAndNumbered) {
  StreamMailbox<v1::GenerateEvent> mailbox(Facts());
  mailbox.Add(Started({2, 3}));
  mailbox.Add(Delta(0, 0, {5}, "a"));
  mailbox.Add(ChoiceEnd(0, scheduler::FinishReason::kMaxTokens));
  mailbox.Add(Finished());
  const auto events = Drain(mailbox);
  ASSERT_EQ(events.size(), 4u);
  for (size_t i = 0; i < events.size(); ++i) EXPECT_EQ(events[i].seq(), i);
  EXPECT_EQ(events[0].accepted().request_id(), "r");
  EXPECT_EQ(events[0].accepted().prompt_tokens(), 2u);
  EXPECT_EQ(events[0].accepted().effective_seed(), 9u);
  EXPECT_EQ(events[0].accepted().prompt_token_ids_size(), 0);
  EXPECT_DOUBLE_EQ(events[0].accepted().queue_s(), 0.0015);
  EXPECT_EQ(events[1].delta().text(), "a");
  EXPECT_EQ(events[2].choice_finished().finish_reason(), v1::MAX_TOKENS);
  EXPECT_FALSE(events[2].choice_finished().has_stop_match());
  EXPECT_EQ(events[3].completed().usage().completion_tokens(), 5u);
  EXPECT_FALSE(events[3].completed().has_timing());
}

TEST_F(StreamMailboxTest, WaitingDeltasOfAChoiceMergeAndOtherChoicesKeepTheirs) {
  StreamMailbox<v1::GenerateEvent> mailbox(Facts());
  mailbox.Add(Delta(0, 0, {5}, "a"));
  mailbox.Add(Delta(1, 0, {7}, "x"));
  OutputEvent step = Delta(0, 1, {6}, "");
  step.steps = 1;
  mailbox.Add(step);
  OutputEvent drafted = Delta(0, 2, {8, 9}, "bc");
  drafted.steps = 1;
  drafted.drafted = 3;
  drafted.accepted = 1;
  mailbox.Add(drafted);
  EXPECT_EQ(mailbox.waiting_tokens(), 5);
  const auto events = Drain(mailbox);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].delta().index(), 0u);
  EXPECT_EQ(events[0].delta().position(), 0u);
  EXPECT_EQ(events[0].delta().text(), "abc");
  EXPECT_THAT(events[0].delta().token_ids(), ElementsAre(5, 6, 8, 9));
  EXPECT_EQ(events[0].delta().steps(), 2u);  // the first token came from the prompt's step
  EXPECT_EQ(events[0].delta().drafted_tokens(), 3u);
  EXPECT_EQ(events[0].delta().accepted_tokens(), 1u);
  EXPECT_EQ(events[1].delta().index(), 1u);
  EXPECT_EQ(mailbox.waiting_tokens(), 0);
  EXPECT_EQ(mailbox.waiting_bytes(), 0);
}

TEST_F(StreamMailboxTest, ADeltaThatHasLeftIsNotTouched) {
  StreamMailbox<v1::GenerateEvent> mailbox(Facts());
  mailbox.Add(Delta(0, 0, {5}, "a"));
  mailbox.Pop();
  mailbox.Add(Delta(0, 1, {6}, "b"));
  const auto events = Drain(mailbox);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].seq(), 1u);
  EXPECT_EQ(events[0].delta().position(), 1u);
  EXPECT_EQ(events[0].delta().text(), "b");
}

TEST_F(StreamMailboxTest, AFailedRequestClosesWithItsStatusAlone) {
  StreamMailbox<v1::GenerateEvent> mailbox(Facts());
  mailbox.Add(Finished(absl::InternalError("x")));
  EXPECT_TRUE(mailbox.empty());
}

TEST_F(StreamMailboxTest, OptionsDecideWhatIsReported) {
  AnswerFacts facts = Facts();
  facts.logprobs = true;
  facts.report = {
      .token_ids = false, .speculative_stats = true, .timing = true, .prompt_token_ids = true};
  StreamMailbox<v1::GenerateEvent> mailbox(facts);
  mailbox.Add(Started({2, 3}));
  mailbox.Add(Delta(0, 0, {5}, "a"));
  OutputEvent end = ChoiceEnd(0, scheduler::FinishReason::kStopString);
  end.stop_text = "STOP";
  mailbox.Add(end);
  mailbox.Add(Finished());
  const auto events = Drain(mailbox);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_THAT(events[0].accepted().prompt_token_ids(), ElementsAre(2, 3));
  EXPECT_EQ(events[1].delta().token_ids_size(), 0);
  ASSERT_EQ(events[1].delta().logprobs_size(), 1);
  EXPECT_EQ(events[1].delta().logprobs(0).rank(), 2u);
  EXPECT_EQ(events[1].delta().logprobs(0).token_bytes(),
            std::string(tokenizer_.vocabulary().Bytes(5)));
  EXPECT_EQ(events[2].choice_finished().stop_match().text(), "STOP");
  EXPECT_FALSE(events[2].choice_finished().speculative().enabled());
  EXPECT_DOUBLE_EQ(events[3].completed().timing().ttft_s(), 0.25);
  EXPECT_TRUE(events[3].completed().has_speculative());
}

TEST_F(StreamMailboxTest, StatisticsOfDraftsGoAsFarAsDraftsDid) {
  AnswerFacts facts = Facts();
  facts.report.speculative_stats = true;
  facts.speculation = {.mode = scheduler::Speculation::Mode::kFixed, .max_draft_tokens = 3};
  StreamMailbox<v1::GenerateEvent> mailbox(facts);
  OutputEvent end = ChoiceEnd(0, scheduler::FinishReason::kMaxTokens);
  end.drafts.rounds = 7;
  end.drafts.rounds_with_draft = 5;
  end.drafts.drafted = 8;
  end.drafts.accepted = 4;
  end.drafts.discarded = 2;
  end.drafts.drafted_at = {5, 3};
  end.drafts.accepted_at = {4};
  mailbox.Add(end);
  const v1::SpeculativeStats stats = mailbox.Pop().choice_finished().speculative();
  EXPECT_TRUE(stats.enabled());
  EXPECT_EQ(stats.max_draft_tokens(), 3u);
  EXPECT_EQ(stats.steps(), 7u);
  EXPECT_EQ(stats.steps_with_draft(), 5u);
  EXPECT_EQ(stats.drafted_tokens(), 8u);
  EXPECT_EQ(stats.accepted_tokens(), 4u);
  EXPECT_EQ(stats.discarded_tokens(), 2u);
  EXPECT_THAT(stats.drafted_per_position(), ElementsAre(5, 3));
  EXPECT_THAT(stats.accepted_per_position(), ElementsAre(4, 0));
}

TEST_F(StreamMailboxTest, NoMessageExceedsAMebibyteHoweverFarTheReaderLags) {
  AnswerFacts facts = Facts();
  facts.logprobs = true;
  StreamMailbox<v1::GenerateEvent> mailbox(facts);
  std::string text;
  std::vector<uint32_t> ids;
  for (int i = 0; i < 60'000; ++i) {
    OutputEvent delta = Delta(0, i, {i % 20}, "h\xC3\xA9");
    delta.tokens[0].top.resize(5, {.id = 7, .logprob = -3.0f});
    text += delta.text;
    ids.push_back(i % 20);
    mailbox.Add(delta);
  }
  std::string got_text;
  std::vector<uint32_t> got_ids;
  const auto events = Drain(mailbox);
  EXPECT_GT(events.size(), 1u);
  for (const v1::GenerateEvent& event : events) {
    EXPECT_LE(event.ByteSizeLong(), size_t{1} << 20);
    EXPECT_EQ(event.delta().position(), got_ids.size());
    EXPECT_EQ(event.delta().logprobs_size(), event.delta().token_ids_size());
    got_text += event.delta().text();
    got_ids.insert(got_ids.end(), event.delta().token_ids().begin(),
                   event.delta().token_ids().end());
  }
  EXPECT_TRUE(got_text == text);
  EXPECT_EQ(got_ids, ids);
}

TEST_F(StreamMailboxTest, AHugeTextIsCutBetweenCharacters) {
  StreamMailbox<v1::GenerateEvent> mailbox(Facts());
  std::string text = "a";
  while (text.size() < (3u << 20)) text += "\xE2\x82\xAC";
  mailbox.Add(Delta(0, 0, {5}, text));
  std::string got;
  for (const v1::GenerateEvent& event : Drain(mailbox)) {
    EXPECT_LE(event.ByteSizeLong(), size_t{1} << 20);
    EXPECT_NE(static_cast<unsigned char>(event.delta().text()[0]) & 0xC0, 0x80);
    got += event.delta().text();
  }
  EXPECT_TRUE(got == text);
}

TEST_F(StreamMailboxTest, PromptLogprobsStartAtPositionZeroAndTheLastMessageSaysSo) {
  AnswerFacts facts = Facts();
  facts.prompt_logprobs = true;
  StreamMailbox<v1::GenerateEvent> mailbox(facts);
  mailbox.Add(Started(std::vector<int32_t>(40'001, 2)));
  mailbox.Add(PromptLogprobs(1, 20'000));
  mailbox.Add(PromptLogprobs(20'001, 20'000));
  const auto events = Drain(mailbox);
  ASSERT_GT(events.size(), 2u);
  uint32_t position = 0;
  for (size_t i = 1; i < events.size(); ++i) {
    const v1::PromptLogprobs& message = events[i].prompt_logprobs();
    EXPECT_LE(events[i].ByteSizeLong(), size_t{1} << 20);
    EXPECT_EQ(message.first_position(), position);
    EXPECT_EQ(message.last(), i + 1 == events.size());
    position += message.items_size();
  }
  EXPECT_EQ(position, 40'001u);
  EXPECT_FALSE(events[1].prompt_logprobs().items(0).has_logprob());
  EXPECT_TRUE(events[1].prompt_logprobs().items(1).has_logprob());
}

TEST_F(StreamMailboxTest, APromptOfOneTokenHasOnePromptLogprob) {
  AnswerFacts facts = Facts();
  facts.prompt_logprobs = true;
  StreamMailbox<v1::GenerateEvent> mailbox(facts);
  mailbox.Add(Started({2}));
  const auto events = Drain(mailbox);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(events[1].prompt_logprobs().last());
}

TEST_F(StreamMailboxTest, TheChannelsOfAChatMergeEachForItself) {
  StreamMailbox<v1::ChatEvent> mailbox(Facts());
  mailbox.Add(Started({2, 3}));
  OutputEvent thought = Delta(0, 0, {5}, "");
  thought.reasoning = "let me ";
  OutputEvent both = Delta(0, 1, {6}, "It is ");
  both.reasoning = "see";
  OutputEvent call = Delta(0, 2, {7}, "noon");
  call.tool_calls = {{.call_index = 0, .id = "c", .name = "clock", .arguments = "{}"}};
  for (const OutputEvent& event : {thought, both, call}) mailbox.Add(event);
  mailbox.Add(ChoiceEnd(0, scheduler::FinishReason::kToolCalls));
  mailbox.Add(Finished());
  const auto events = Drain(mailbox);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_TRUE(events[0].has_accepted());
  const v1::ChatDelta& delta = events[1].delta();
  EXPECT_EQ(delta.content(), "It is noon");
  EXPECT_EQ(delta.reasoning(), "let me see");
  EXPECT_THAT(delta.token_ids(), ElementsAre(5, 6, 7));
  ASSERT_EQ(delta.tool_calls_size(), 1);
  EXPECT_EQ(delta.tool_calls(0).id(), "c");
  EXPECT_EQ(delta.tool_calls(0).name(), "clock");
  EXPECT_EQ(delta.tool_calls(0).arguments_delta(), "{}");
  EXPECT_EQ(events[2].choice_finished().finish_reason(), v1::TOOL_CALLS);
  EXPECT_TRUE(events[3].has_completed());
  EXPECT_EQ(events[3].seq(), 3u);
}

TEST_F(StreamMailboxTest, HugeArgumentsOfAToolCallComeInPiecesThatConcatenate) {
  StreamMailbox<v1::ChatEvent> mailbox(Facts());
  OutputEvent event = Delta(0, 0, {5}, "");
  std::string arguments = "{\"text\":\"";
  while (arguments.size() < (3u << 20)) arguments += "\xE2\x82\xAC";
  arguments += "\"}";
  event.tool_calls = {{.call_index = 0, .id = "a", .name = "write", .arguments = arguments},
                      {.call_index = 1, .id = "b", .name = "clock", .arguments = ""}};
  mailbox.Add(event);
  std::string got;
  int ids = 0, second = 0;
  for (const v1::ChatEvent& message : Drain(mailbox)) {
    EXPECT_LE(message.ByteSizeLong(), size_t{1} << 20);
    for (const v1::ToolCallDelta& call : message.delta().tool_calls()) {
      ids += call.id().empty() ? 0 : 1;
      second += call.call_index() == 1 ? 1 : 0;
      if (call.call_index() == 0) got += call.arguments_delta();
    }
  }
  EXPECT_TRUE(got == arguments);
  EXPECT_EQ(ids, 2);
  EXPECT_EQ(second, 1);
}

}  // namespace
}  // namespace tandem::server
