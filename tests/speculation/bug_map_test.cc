// BUGS.md names a test for every known bug; this one holds that they exist.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace tandem::testing {
namespace {

std::string Read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::vector<std::smatch> All(const std::string& text, const std::regex& pattern) {
  return {std::sregex_iterator(text.begin(), text.end(), pattern), std::sregex_iterator()};
}

// Adds what `pattern` finds at each place where `text` has `word`; much faster than a search.
void FindAt(const std::string& text, const std::string& word, const std::regex& pattern,
            const std::string& before, const std::string& between, std::set<std::string>& tests) {
  for (size_t at = text.find(word); at != std::string::npos; at = text.find(word, at + 1)) {
    std::smatch m;
    if (std::regex_search(text.begin() + static_cast<std::ptrdiff_t>(at), text.end(), m, pattern,
                          std::regex_constants::match_continuous)) {
      tests.insert(before + m.str(1) + (m.size() > 2 ? between + m.str(2) : ""));
    }
  }
}

// "Suite.Name" of every GoogleTest, "file.py::test_name" of every pytest under tests/.
std::set<std::string> TestsInTheTree() {
  const std::regex cc(R"(TEST(?:_F|_P)?\(\s*(\w+)\s*,\s*(\w+)\s*\))");
  const std::regex py(R"(def (test_\w+)\()");
  std::set<std::string> tests;
  const std::filesystem::path root = std::filesystem::path(TANDEM_SOURCE_DIR) / "tests";
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    const std::string extension = entry.path().extension();
    if (extension == ".cc") FindAt(Read(entry.path()), "TEST", cc, "", ".", tests);
    if (extension == ".py") {
      const std::string file = entry.path().filename();
      FindAt(Read(entry.path()), "def test_", py, file + "::", "", tests);
    }
  }
  return tests;
}

// The rows of mtp.md 4 and 5.3.
std::set<std::string> RowsToBeMapped() {
  std::set<std::string> rows;
  const auto add = [&rows](const std::string& prefix, int last, bool two_digits) {
    for (int i = 1; i <= last; ++i) {
      const std::string number = std::to_string(i);
      rows.insert(prefix + (two_digits && i < 10 ? "0" : "") + number);
    }
  };
  add("S0-", 10, false);
  add("S1-", 3, false);
  add("S2-", 2, false);
  add("S3-", 17, false);
  add("S4-", 12, false);
  add("P-", 48, false);
  add("T", 32, true);
  return rows;
}

class BugMapTest : public ::testing::Test {
 protected:
  BugMapTest() : page(Read(std::string(TANDEM_SOURCE_DIR) + "/tests/speculation/BUGS.md")) {
    const std::regex row(R"(\n\| ([SPT][0-9-]+) \| ([^|\n]+) \| ([^|\n]+) \|)");
    for (const std::smatch& m : All(page, row)) {
      ++count[m.str(1)];
      answer[m.str(1)] = m.str(3);
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
  ASSERT_GT(tests.size(), 100u);
  const std::regex name(R"(`(\w+\.[A-Z]\w+|\w+\.py::\w+)`)");
  int named = 0;
  for (const std::smatch& m : All(page, name)) {
    EXPECT_TRUE(tests.contains(m.str(1))) << m.str(1);
    ++named;
  }
  EXPECT_GT(named, 100);
}

TEST_F(BugMapTest, WhatHasNoTestSaysWhy) {
  for (const auto& [row, text] : answer) {
    const bool excused = text.starts_with("Not yet: ") || text.starts_with("Cannot occur: ");
    EXPECT_TRUE(excused || text.starts_with("`")) << row << ": " << text;
  }
}

}  // namespace
}  // namespace tandem::testing
