#include "server/cli/format.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/cli/text_table.h"

namespace tandem::server {
namespace {

TEST(FormatTest, BytesHaveTheUnitThatKeepsThemBelow1024) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(1023), "1023 B");
  EXPECT_EQ(BytesText(1024), "1.0 KiB");
  EXPECT_EQ(BytesText(1024 * 1024 - 1), "1.0 MiB");
  EXPECT_EQ(BytesText(7.9 * 1073741824.0), "7.9 GiB");
  EXPECT_EQ(BytesText(1e18), "909494.7 TiB");
}

TEST(FormatTest, CountsAreGroupedByThrees) {
  EXPECT_EQ(CountText(0), "0");
  EXPECT_EQ(CountText(999), "999");
  EXPECT_EQ(CountText(1000), "1 000");
  EXPECT_EQ(CountText(262144), "262 144");
  EXPECT_EQ(CountText(1234567), "1 234 567");
  EXPECT_EQ(CountText(-123), "-123");
  EXPECT_EQ(CountText(-1234), "-1 234");
}

TEST(FormatTest, ParametersAndSecondsChangeTheirUnit) {
  EXPECT_EQ(ParametersText(4628569379), "4.63 B");
  EXPECT_EQ(ParametersText(12600000), "12.6 M");
  EXPECT_EQ(ParametersText(524288), "524 288");
  EXPECT_EQ(SecondsText(0.085), "85 ms");
  EXPECT_EQ(SecondsText(4.84), "4.8 s");
  EXPECT_EQ(SecondsText(59.96), "1 min 0 s");
  EXPECT_EQ(SecondsText(125.4), "2 min 5 s");
}

TEST(TextTableTest, MarkdownIsPaddedAndEscapesBars) {
  const TextTable table = {.columns = {{"name"}, {"tok/s", true}},
                           .rows = {{"a|b", "1.0 ± 0.5"}, {"c", "12"}}};
  EXPECT_EQ(MarkdownText(table),
            "| name |     tok/s |\n"
            "| ---- | --------: |\n"
            "| a\\|b | 1.0 ± 0.5 |\n"
            "| c    |        12 |\n");
}

TEST(TextTableTest, CsvQuotesWhatWouldSplitACell) {
  const TextTable table = {.columns = {{"a"}, {"b"}}, .rows = {{"x,y", "say \"hi\"\n"}}};
  EXPECT_EQ(CsvText(table), "a,b\n\"x,y\",\"say \"\"hi\"\"\n\"\n");
}

}  // namespace
}  // namespace tandem::server
