#include "server/cli/chat_conversation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "server/cli/chat_command.h"

namespace tandem::server {
namespace {

using ::testing::HasSubstr;

Conversation Example() {
  return {.system = "Be \"brief\".",
          .turns = {{.role = ChatRole::kUser, .content = "Hi\n"},
                    {.role = ChatRole::kAssistant, .content = "Grüße", .reasoning = "hm"},
                    {.role = ChatRole::kUser, .content = "More"}}};
}

TEST(ConversationTest, WhatIsSavedCanBeLoaded) {
  const std::string path = ::testing::TempDir() + "/conversation.json";
  ASSERT_TRUE(SaveConversation(Example(), path).ok());
  const absl::StatusOr<Conversation> loaded = LoadConversation(path);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->system, Example().system);
  ASSERT_EQ(loaded->turns.size(), 3u);
  EXPECT_EQ(loaded->turns[1].role, ChatRole::kAssistant);
  EXPECT_EQ(loaded->turns[1].content, "Grüße");
  EXPECT_EQ(loaded->turns[1].reasoning, "hm");
  EXPECT_EQ(loaded->turns[2].content, "More");
}

TEST(ConversationTest, AFileThatIsNoConversationIsRefusedWithWhatIsWrong) {
  const auto error = [](std::string_view json) {
    return std::string(ParseConversation(json).status().message());
  };
  EXPECT_THAT(error("{"), HasSubstr("not JSON"));
  EXPECT_THAT(error("[]"), HasSubstr("no list \"messages\""));
  EXPECT_THAT(error(R"({"messages": 3})"), HasSubstr("no list"));
  EXPECT_THAT(error(R"({"messages": [7]})"), HasSubstr("messages[0] is not an object"));
  EXPECT_THAT(error(R"({"messages": [{"role": "user", "content": 7}]})"),
              HasSubstr("messages[0].content is not a string"));
  EXPECT_THAT(error(R"({"messages": [{"role": "user"}, {"role": "system"}]})"),
              HasSubstr("messages[1].role is system"));
  EXPECT_THAT(error(R"({"messages": [{"role": "tool"}]})"), HasSubstr("messages[0].role must be"));
}

TEST(ConversationTest, FilesThatCanNotBeReadOrWrittenAreNamed) {
  EXPECT_EQ(LoadConversation("/no/such/file").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(SaveConversation(Example(), "/no/such/file").message()),
              HasSubstr("/no/such/file"));
  const std::string path = ::testing::TempDir() + "/bytes.json";
  std::ofstream(path) << "{\"messages\": [], \"x\": \"\xff\"}";
  EXPECT_THAT(std::string(LoadConversation(path).status().message()), HasSubstr("UTF-8"));
}

TEST(CutOldestTest, WholeExchangesGoUntilEnoughIsLeft) {
  Conversation conversation;
  for (int i = 0; i < 4; ++i) {
    conversation.turns.push_back({.role = ChatRole::kUser, .content = "12345"});
    conversation.turns.push_back({.role = ChatRole::kAssistant, .content = "12345"});
  }
  conversation.turns.push_back({.role = ChatRole::kUser, .content = "last"});
  EXPECT_EQ(CutOldest(conversation, 0.6), 4u);
  EXPECT_EQ(conversation.turns.front().role, ChatRole::kUser);
  EXPECT_EQ(CutOldest(conversation, 1.0), 2u);  // at least one
  EXPECT_EQ(CutOldest(conversation, 0.0), 2u);
  EXPECT_EQ(CutOldest(conversation, 0.0), 0u);
  ASSERT_EQ(conversation.turns.size(), 1u);
  EXPECT_EQ(conversation.turns[0].content, "last");
}

TEST(ChatCommandTest, EveryCommandIsInTheHelpAndParsed) {
  for (const char* line : {"/help", "/reset", "/system You are a cat.", "/set top_k 5", "/stats",
                           "/save a file.json", "/quit"}) {
    const absl::StatusOr<ChatCommand> command = ParseChatCommand(line);
    ASSERT_TRUE(command.ok()) << command.status();
    const std::string word = std::string(line).substr(0, std::string(line).find(' '));
    EXPECT_THAT(ChatHelp(), HasSubstr("  " + word + " "));
  }
  EXPECT_EQ(ParseChatCommand("/save  a file.json ")->argument, "a file.json");
}

TEST(ChatCommandTest, WhatIsWrongIsSaid) {
  const auto error = [](std::string_view line) {
    return std::string(ParseChatCommand(line).status().message());
  };
  EXPECT_THAT(error("/rest"), HasSubstr("did you mean /reset?"));
  EXPECT_THAT(error("/usr/bin/env is what?"), HasSubstr("//"));
  EXPECT_THAT(error("/save"), HasSubstr("/save needs FILE"));
  EXPECT_THAT(error("/quit now"), HasSubstr("/quit takes nothing"));
}

TEST(ChatSettingTest, ValuesHaveTheRangesOfTheCommandLine) {
  ChatSettings settings;
  for (const char* words : {"temperature 0.7", "top_k 40", "top_p 0.9", "max_tokens 12",
                            "seed 18446744073709551615", "thinking on"}) {
    EXPECT_TRUE(SetChatSetting(words, settings).ok()) << words;
  }
  EXPECT_EQ(ChatSettingsText(settings),
            "temperature 0.7  top_k 40  top_p 0.9  max_tokens 12  seed 18446744073709551615  "
            "thinking on");
  const auto error = [&](const char* words) {
    return std::string(SetChatSetting(words, settings).message());
  };
  EXPECT_EQ(error("temperature 11"), "temperature is '11'; the range is 0 to 10");
  EXPECT_THAT(error("temperature warm"), HasSubstr("a number is expected"));
  EXPECT_THAT(error("temprature 1"), HasSubstr("did you mean temperature?"));
  EXPECT_THAT(error("mood good"), HasSubstr("there are temperature"));
  EXPECT_THAT(error("seed"), HasSubstr("needs a value"));
  EXPECT_THAT(error("thinking maybe"), HasSubstr("on or off"));
  EXPECT_EQ(settings.temperature, 0.7);  // a refused value changes nothing
  for (const char* name : {"temperature", "top_k", "top_p", "max_tokens", "seed", "thinking"}) {
    EXPECT_TRUE(SetChatSetting(std::string(name) + " default", settings).ok()) << name;
  }
  EXPECT_EQ(ChatSettingsText(settings), ChatSettingsText({}));
}

}  // namespace
}  // namespace tandem::server
