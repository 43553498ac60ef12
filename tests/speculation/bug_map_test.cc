// BUGS.md names a test for every known bug; this one holds that they exist.
#include <gtest/gtest.h>

#include <cctype>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace tandem::testing {
namespace {

std::string Read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The identifier at `at`, behind spaces and commas.
std::string Identifier(std::string_view text, size_t& at) {
  while (at < text.size() &&
         (std::isspace(static_cast<unsigned char>(text[at])) != 0 || text[at] == ',')) {
    ++at;
  }
  const size_t begin = at;
  while (at < text.size() &&
         (std::isalnum(static_cast<unsigned char>(text[at])) != 0 || text[at] == '_')) {
    ++at;
  }
  return std::string(text.substr(begin, at - begin));
}

// Calls f(place behind it) for every occurrence of `word`.
template <typename F>
void ForEach(std::string_view text, std::string_view word, F f) {
  for (size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1)) {
    f(at + word.size());
  }
}

// "Suite.Name" of every GoogleTest, "file.py::test_name" of every pytest under tests/.
std::set<std::string> TestsInTheTree() {
  std::set<std::string> tests;
  const std::filesystem::path root = std::filesystem::path(TANDEM_SOURCE_DIR) / "tests";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::string extension = entry.path().extension();
    if (extension != ".cc" && extension != ".py") continue;
    const std::string text = Read(entry.path());
    if (extension == ".cc") {
      for (const std::string_view macro : {"TEST(", "TEST_F(", "TEST_P("}) {
        ForEach(text, macro, [&](size_t at) {
          const std::string suite = Identifier(text, at);
          tests.insert(suite + "." + Identifier(text, at));
        });
      }
    } else {
      const std::string file = entry.path().filename();
      ForEach(text, "def ", [&](size_t at) { tests.insert(file + "::" + Identifier(text, at)); });
    }
  }
  return tests;
}

// What stands between backticks and looks like the name of a test.
std::vector<std::string> NamesIn(const std::string& page) {
  std::vector<std::string> names;
  const std::vector<std::string> parts = absl::StrSplit(page, '`');
  for (size_t i = 1; i < parts.size(); i += 2) {
    const size_t dot = parts[i].find('.');
    const bool cc = dot != std::string::npos && dot + 1 < parts[i].size() &&
                    std::isupper(static_cast<unsigned char>(parts[i][dot + 1])) != 0;
    if (cc || parts[i].find("::") != std::string::npos) names.push_back(parts[i]);
  }
  return names;
}

// The rows of mtp.md 4 and 5.3, and of turboquant.md 4.6.
std::set<std::string> RowsToBeMapped() {
  std::set<std::string> rows;
  const int seeds[] = {10, 3, 2, 17, 12};
  for (int seed = 0; seed < 5; ++seed) {
    for (int i = 1; i <= seeds[seed]; ++i) rows.insert(absl::StrFormat("S%d-%d", seed, i));
  }
  for (int i = 1; i <= 48; ++i) rows.insert(absl::StrFormat("P-%d", i));
  for (int i = 1; i <= 32; ++i) rows.insert(absl::StrFormat("T%02d", i));
  for (int i = 1; i <= 11; ++i) rows.insert(absl::StrFormat("K-%d", i));
  return rows;
}

class BugMapTest : public ::testing::Test {
 protected:
  BugMapTest() : page(Read(std::string(TANDEM_SOURCE_DIR) + "/tests/speculation/BUGS.md")) {
    const std::vector<std::string> lines = absl::StrSplit(page, '\n');
    for (const std::string& line : lines) {
      const std::vector<std::string> cells = absl::StrSplit(line, " | ");
      if (cells.size() != 3 || !cells[0].starts_with("| ")) continue;
      const std::string row = cells[0].substr(2);
      if (row == "#" || row == "---") continue;
      ++count[row];
      answer[row] = cells[2];
    }
  }

  std::string page;
  std::map<std::string, int> count;
  std::map<std::string, std::string> answer;
};

TEST_F(BugMapTest, EveryKnownBugIsThereOnce) {
  std::set<std::string> rows;
  for (const auto& [row, times] : count) {
    EXPECT_EQ(times, 1) << row;
    rows.insert(row);
  }
  EXPECT_EQ(rows, RowsToBeMapped());
}

TEST_F(BugMapTest, EveryTestThatItNamesExists) {
  const std::set<std::string> tests = TestsInTheTree();
  const std::vector<std::string> names = NamesIn(page);
  EXPECT_GT(names.size(), 100u);
  for (const std::string& name : names) EXPECT_TRUE(tests.contains(name)) << name;
}

TEST_F(BugMapTest, WhatHasNoTestSaysWhy) {
  for (const auto& [row, text] : answer) {
    const bool excused = text.starts_with("Not yet: ") || text.starts_with("Cannot occur: ");
    EXPECT_TRUE(excused || text.starts_with("`")) << row << ": " << text;
  }
}

}  // namespace
}  // namespace tandem::testing
