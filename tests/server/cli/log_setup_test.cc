#include "server/cli/log_setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/details/log_msg.h>

#include <nlohmann/json.hpp>
#include <string>

namespace tandem::server {
namespace {

std::string Formatted(const std::string& message) {
  const spdlog::details::log_msg entry("tandem", spdlog::level::warn, message);
  spdlog::memory_buf_t line;
  MakeJsonFormatter()->format(entry, line);
  return std::string(line.data(), line.size());
}

TEST(JsonLogTest, EveryMessageIsOneLineOfValidJson) {
  for (const std::string& message :
       {std::string("plain"), std::string("a \"quote\" and a \\"), std::string("two\nlines\r\t"),
        std::string("bell \x07 and nul \0 inside", 23), std::string("é 漢 \xF0\x9F\x98\x80")}) {
    const std::string line = Formatted(message);
    ASSERT_EQ(line.find('\n'), line.size() - 1) << line;
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    ASSERT_FALSE(json.is_discarded()) << line;
    EXPECT_EQ(json["msg"], message);
    EXPECT_EQ(json["level"], "warning");
    EXPECT_EQ(json["logger"], "tandem");
  }
}

TEST(JsonLogTest, InvalidUtf8BecomesTheReplacementCharacter) {
  const nlohmann::json json = nlohmann::json::parse(Formatted("a\xFF\xC3z"), nullptr, false);
  ASSERT_FALSE(json.is_discarded());
  EXPECT_EQ(json["msg"], "a\xEF\xBF\xBD\xEF\xBF\xBDz");
}

TEST(JsonLogTest, TheTimeIsRfc3339InUtcWithMilliseconds) {
  const nlohmann::json json = nlohmann::json::parse(Formatted("x"), nullptr, false);
  EXPECT_THAT(json["ts"].get<std::string>(),
              ::testing::MatchesRegex("[0-9]+-[0-9]+-[0-9]+T[0-9]+:[0-9]+:[0-9]+.[0-9]+Z"));
  EXPECT_EQ(json["ts"].get<std::string>().size(), 24u);
}

}  // namespace
}  // namespace tandem::server
