#include "server/cli/chat_repl.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <string>
#include <thread>
#include <vector>

#include "scheduler/status_reason.h"

namespace tandem::server {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;
using Kind = ChatLine::Kind;

// A conversation over scripted lines with a scripted model.
struct Talk {
  std::deque<ChatLine> lines;
  std::deque<ChatAnswer> answers;  // results of `ask`; when empty: the end of a turn
  std::vector<AnswerPiece> pieces = {{.content = "Hello."}};  // of every answer that is OK
  Conversation conversation;
  ChatSettings settings;
  bool interactive = true;
  bool colors = false;

  // What came of it.
  std::vector<std::vector<ChatMessage>> asked;
  std::vector<ChatSettings> asked_with;
  std::vector<std::string> prompts;
  std::string written;
  std::string failed;
  int exit_status = -1;

  void Type(std::vector<std::string> texts) {
    for (std::string& text : texts) {
      lines.push_back({.kind = Kind::kText, .text = std::move(text)});
    }
  }

  Talk& Run() {
    ChatBackend backend = {.model = "toy", .place = "in a test", .max_context = 4096};
    backend.ask = [&](const std::vector<ChatMessage>& messages, const ChatSettings& with,
                      const std::function<void(const AnswerPiece&)>& on_piece) {
      asked.push_back(messages);
      asked_with.push_back(with);
      ChatAnswer answer = {
          .prompt_tokens = 20, .completion_tokens = 11, .ttft_s = 0.25, .decode_s = 0.5};
      if (!answers.empty()) {
        answer = answers.front();
        answers.pop_front();
      }
      if (answer.status.ok()) {
        std::thread([&] {
          for (const AnswerPiece& piece : pieces) on_piece(piece);
        }).join();
      }
      return answer;
    };
    backend.stop = [] {};
    const ChatIo io = {.interactive = interactive,
                       .colors = colors,
                       .read =
                           [&](std::string_view prompt) {
                             prompts.emplace_back(prompt);
                             if (lines.empty()) return ChatLine{};
                             ChatLine line = lines.front();
                             lines.pop_front();
                             return line;
                           },
                       .write = [&](std::string_view text) { written += text; },
                       .fail = [&](std::string_view text) { failed += std::string(text) + "\n"; }};
    exit_status = RunChat(backend, io, conversation, settings);
    return *this;
  }
};

std::vector<std::string> Contents(const std::vector<ChatMessage>& messages) {
  std::vector<std::string> contents;
  for (const ChatMessage& message : messages) contents.push_back(message.content);
  return contents;
}

ChatAnswer Failure(absl::StatusCode code, const char* reason) {
  return {.status = WithReason(absl::Status(code, "what the server said"), {.reason = reason})};
}

TEST(ChatTest, AnAnswerIsShownCountedAndRemembered) {
  // Given two messages.
  Talk talk;
  talk.Type({"Hi", "And now?"});
  // When they are answered.
  talk.Run();
  // Then the second is asked with the first and its answer before it.
  ASSERT_THAT(talk.asked, SizeIs(2));
  EXPECT_THAT(Contents(talk.asked[1]), ElementsAre("Hi", "Hello.", "And now?"));
  EXPECT_EQ(talk.asked[1][1].role, ChatRole::kAssistant);
  EXPECT_THAT(talk.written, HasSubstr("toy in a test  context 4 096  /help"));
  EXPECT_THAT(talk.written, HasSubstr("Hello.\n11 tokens  20.0 tok/s  first after 250 ms\n"));
  EXPECT_EQ(talk.exit_status, 0);
}

TEST(ChatTest, WithoutATerminalThereAreAnswersAlone) {
  Talk talk;
  talk.interactive = false;
  talk.pieces = {{.reasoning = "Hm. "}, {.content = "Yes"}, {.content = "."}};
  talk.Type({"Hi", "", "Again"});
  talk.Run();
  EXPECT_EQ(talk.written, "Yes.\nYes.\n");
  EXPECT_EQ(talk.failed, "");
  EXPECT_EQ(talk.exit_status, 0);
}

TEST(ChatTest, WithoutATerminalTheFirstErrorEndsIt) {
  Talk talk;
  talk.interactive = false;
  talk.answers = {Failure(absl::StatusCode::kUnavailable, "DRAINING")};
  talk.Type({"Hi", "Again"});
  talk.Run();
  EXPECT_EQ(talk.exit_status, 1);
  EXPECT_EQ(talk.written, "");
  EXPECT_EQ(talk.failed, "what the server said\n");
  EXPECT_THAT(talk.asked, SizeIs(1));
}

TEST(ChatTest, AfterAnErrorAPersonCanAskAgain) {
  Talk talk;
  talk.answers = {Failure(absl::StatusCode::kResourceExhausted, "QUEUE_FULL")};
  talk.Type({"Hi", "Hi again"});
  talk.Run();
  EXPECT_EQ(talk.failed, "what the server said\n");
  ASSERT_THAT(talk.asked, SizeIs(2));
  EXPECT_THAT(Contents(talk.asked[1]), ElementsAre("Hi again"));
}

TEST(ChatTest, ThoughtsAreDimmedAndNotSaid) {
  Talk talk;
  talk.colors = true;
  talk.pieces = {{.reasoning = "Let me see."}, {.content = "Four."}};
  talk.Type({"2 + 2?", "Sure?"});
  talk.Run();
  EXPECT_THAT(talk.written, HasSubstr("\033[2mLet me see.\033[0m\n\nFour.\n"));
  EXPECT_THAT(Contents(talk.asked[1]), ElementsAre("2 + 2?", "Four.", "Sure?"));
}

TEST(ChatTest, AnAnswerCanNotSteerTheTerminal) {
  Talk talk;
  talk.pieces = {{.content = "a\033[2Jb\x7f\xC2\x9B"
                             "c\td\ne\xC2\xA9"}};
  talk.Type({"Hi"});
  talk.Run();
  EXPECT_THAT(talk.written, HasSubstr("a\uFFFD[2Jb\uFFFD\uFFFDc\td\ne\u00A9\n"));
  // Nor can an error.
  talk.answers = {{.status = absl::InternalError("\033[2Jgone")}};
  talk.Type({"Hi"});
  talk.Run();
  EXPECT_EQ(talk.failed, "\uFFFD[2Jgone\n");
}

TEST(ChatTest, AStoppedAnswerStaysAndOneWithoutAWordIsForgotten) {
  // Given an answer that is stopped, and then one that is stopped before it began.
  Talk talk;
  talk.answers = {{.end = ChatAnswer::End::kStopped, .completion_tokens = 3}};
  talk.Type({"Hi", "More"});
  talk.Run();
  EXPECT_THAT(talk.written, HasSubstr("3 tokens  stopped"));
  EXPECT_THAT(Contents(talk.asked[1]), ElementsAre("Hi", "Hello.", "More"));

  Talk silent;
  silent.pieces = {};
  silent.answers = {{.end = ChatAnswer::End::kStopped}};
  silent.Type({"Hi", "More"});
  silent.Run();
  EXPECT_THAT(silent.written, HasSubstr("stopped before the answer began"));
  EXPECT_THAT(Contents(silent.asked[1]), ElementsAre("More"));
}

TEST(ChatTest, AnInterruptAtThePromptSaysHowToLeave) {
  Talk talk;
  talk.lines = {{.kind = Kind::kInterrupted}};
  talk.Run();
  EXPECT_THAT(talk.written, HasSubstr("Ctrl-D or /quit leaves"));
  EXPECT_EQ(talk.exit_status, 0);
}

TEST(ChatTest, LinesAreJoinedByBackslashesAndQuotes) {
  Talk talk;
  talk.Type({"one\\", "two", "\"\"\"", "three", "", "/four", "\"\"\"", "\"\"\"five", "six\"\"\"",
             "\"\"\"/help\"\"\"", "//seven"});
  talk.Run();
  std::vector<std::string> messages;
  for (const auto& asked : talk.asked) messages.push_back(asked.back().content);
  EXPECT_THAT(messages, ElementsAre("one\ntwo", "three\n\n/four", "five\nsix", "/help", "/seven"));
  EXPECT_EQ(talk.prompts[1], ". ");
}

TEST(ChatTest, WithoutATerminalEveryLineIsAMessage) {
  Talk talk;
  talk.interactive = false;
  talk.Type({"C:\\", "\"\"\"", "two"});
  talk.Run();
  ASSERT_THAT(talk.asked, SizeIs(3));
  EXPECT_EQ(talk.asked[0].back().content, "C:\\");
  EXPECT_EQ(talk.asked[1].back().content, "\"\"\"");
}

TEST(ChatTest, AnInterruptForgetsAMessageThatIsNotComplete) {
  Talk talk;
  talk.Type({"\"\"\"one"});
  talk.lines.push_back({.kind = Kind::kInterrupted});
  talk.Type({"two"});
  talk.Run();
  ASSERT_THAT(talk.asked, SizeIs(1));
  EXPECT_THAT(Contents(talk.asked[0]), ElementsAre("two"));
}

TEST(ChatTest, CommandsChangeWhatIsAskedNext) {
  Talk talk;
  talk.Type({"/set temperature 0.5", "/system Be brief.", "Hi", "/reset", "/set thinking on",
             "/set temperature default", "Ho", "/system", "Again"});
  talk.Run();
  ASSERT_THAT(talk.asked, SizeIs(3));
  EXPECT_THAT(Contents(talk.asked[0]), ElementsAre("Be brief.", "Hi"));
  EXPECT_EQ(talk.asked[0][0].role, ChatRole::kSystem);
  EXPECT_EQ(talk.asked_with[0].temperature, 0.5);
  EXPECT_THAT(Contents(talk.asked[1]), ElementsAre("Be brief.", "Ho"));
  EXPECT_EQ(talk.asked_with[1].temperature, std::nullopt);
  EXPECT_TRUE(talk.asked_with[1].thinking);
  EXPECT_THAT(Contents(talk.asked[2]), ElementsAre("Ho", "Hello.", "Again"));
}

TEST(ChatTest, StatsCountTheConversation) {
  Talk talk;
  talk.Type({"Hi", "Ho", "/stats"});
  talk.Run();
  EXPECT_THAT(talk.written, HasSubstr("answers 2  messages 4  tokens in 40, out 22  20.0 tok/s"));
  EXPECT_THAT(talk.written, HasSubstr("context 31 of 4 096 tokens"));
  EXPECT_THAT(talk.written, Not(HasSubstr("drafts")));
}

TEST(ChatTest, WhatAnEarlierTurnLeftInTheCacheIsToldBesideTheTimeThatItSaved) {
  // Given two answers, the second of which found most of its prompt computed.
  Talk talk;
  talk.answers = {{.prompt_tokens = 1200, .completion_tokens = 11, .ttft_s = 0.25},
                  {.prompt_tokens = 1300,
                   .cached_prompt_tokens = 1216,
                   .completion_tokens = 11,
                   .ttft_s = 0.025}};
  talk.Type({"Hi", "Ho", "/stats"});
  talk.Run();
  EXPECT_THAT(talk.written, HasSubstr("first after 250 ms\n"));
  EXPECT_THAT(talk.written, HasSubstr("first after 25 ms  1 216 of 1 300 prompt tokens cached\n"));
  EXPECT_THAT(talk.written, HasSubstr("tokens in 2 500 (1 216 cached), out 22"));
}

TEST(ChatTest, StatsTellWhatGuessesWereWorthOverAllAnswers) {
  // Given two answers whose 10 and 5 steps gave 20 and 10 tokens after the first, and one plain.
  Talk talk;
  talk.answers = {
      {.completion_tokens = 21, .steps = 10, .drafted_tokens = 20, .accepted_tokens = 10},
      {.completion_tokens = 11, .steps = 5, .drafted_tokens = 10, .accepted_tokens = 5},
      {.completion_tokens = 6, .steps = 5}};
  talk.Type({"Hi", "Ho", "He", "/stats"});
  talk.Run();
  EXPECT_THAT(talk.written, HasSubstr("10 of 20 drafted accepted  2.00 tokens per round"));
  EXPECT_THAT(talk.written,
              HasSubstr("drafts: 15 of 30 guesses held (50 %)  1.75 tokens per round"));
}

TEST(ChatTest, QuitLeavesAndAWrongCommandDoesNot) {
  Talk talk;
  talk.Type({"/quti", "/set top_k many", "/quit", "Hi"});
  talk.Run();
  EXPECT_THAT(talk.failed, AllOf(HasSubstr("did you mean /quit?"), HasSubstr("top_k is 'many'")));
  EXPECT_THAT(talk.asked, IsEmpty());
  EXPECT_EQ(talk.exit_status, 0);
}

TEST(ChatTest, WhatIsNotUtf8IsNotSent) {
  Talk talk;
  talk.Type({"\xff\xfe", "Hi"});
  talk.Run();
  EXPECT_THAT(talk.failed, HasSubstr("not valid UTF-8"));
  EXPECT_THAT(talk.asked, SizeIs(1));
}

// A conversation of four exchanges.
Conversation Long() {
  Conversation conversation;
  for (const char* text : {"1", "2", "3", "4"}) {
    conversation.turns.push_back({.role = ChatRole::kUser, .content = std::string("ask") + text});
    conversation.turns.push_back(
        {.role = ChatRole::kAssistant, .content = std::string("say") + text});
  }
  return conversation;
}

TEST(ChatTest, AConversationThatNoLongerFitsLosesItsOldestMessages) {
  // Given a model that finds the prompt too long, once.
  Talk talk;
  talk.conversation = Long();
  talk.conversation.system = "Be brief.";
  talk.answers = {Failure(absl::StatusCode::kInvalidArgument, "PROMPT_TOO_LONG")};
  talk.Type({"ask5"});
  // When something is said.
  talk.Run();
  // Then it is asked again without the first messages, and the person is told.
  ASSERT_THAT(talk.asked, SizeIs(2));
  EXPECT_THAT(Contents(talk.asked[1]),
              ElementsAre("Be brief.", "ask3", "say3", "ask4", "say4", "ask5"));
  EXPECT_THAT(talk.written, HasSubstr("oldest 4 messages are left out"));
  EXPECT_EQ(talk.failed, "");
}

TEST(ChatTest, AMessageThatIsTooLongByItselfIsAnError) {
  Talk talk;
  talk.conversation = Long();
  talk.answers.assign(20, Failure(absl::StatusCode::kInvalidArgument, "PROMPT_TOO_LONG"));
  talk.Type({"much too long"});
  talk.Run();
  EXPECT_THAT(Contents(talk.asked.back()), ElementsAre("much too long"));
  EXPECT_EQ(talk.failed, "what the server said\n");
}

TEST(ChatTest, AfterAFullContextTheNextMessageHasRoom) {
  Talk talk;
  talk.conversation = Long();
  talk.answers = {{.end = ChatAnswer::End::kContextFull}};
  talk.Type({"ask5", "ask6"});
  talk.Run();
  EXPECT_THAT(talk.written, HasSubstr("the context is full"));
  EXPECT_THAT(Contents(talk.asked[0]), SizeIs(9));
  EXPECT_THAT(Contents(talk.asked[1]), Not(::testing::Contains("ask1")));
  EXPECT_EQ(talk.asked[1].back().content, "ask6");
}

TEST(ChatTest, MoreMessagesThanARequestMayHaveAreNotSent) {
  Talk talk;
  talk.interactive = false;
  for (int i = 0; i < 600; ++i) talk.Type({"again"});
  talk.Run();
  ASSERT_THAT(talk.asked, SizeIs(600));
  EXPECT_LE(talk.asked.back().size(), 1024u);
  EXPECT_THAT(talk.failed, HasSubstr("are left out"));
  EXPECT_EQ(talk.exit_status, 0);
}

}  // namespace
}  // namespace tandem::server
