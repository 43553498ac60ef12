#include "server/cli/doctor.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"

namespace tandem::server {
namespace {

constexpr int kNameColumns = 11;

struct LevelWords {
  const char* word;
  const char* color;
};

LevelWords WordsOf(Finding::Level level) {
  constexpr std::array<LevelWords, 3> kWords = {
      {{"PASS", "\033[32m"}, {"WARN", "\033[33m"}, {"FAIL", "\033[31m"}}};
  return kWords[static_cast<size_t>(level)];
}

int64_t Count(const std::vector<Finding>& findings, Finding::Level level) {
  return std::count_if(findings.begin(), findings.end(),
                       [&](const Finding& finding) { return finding.level == level; });
}

}  // namespace

std::string FindingsText(const std::vector<Finding>& findings, const Terminal& terminal) {
  std::string text;
  for (const Finding& finding : findings) {
    const LevelWords words = WordsOf(finding.level);
    text += terminal.colors ? std::string(words.color) + words.word + "\033[0m" : words.word;
    text += absl::StrFormat("  %-*s %s\n", kNameColumns, finding.name, finding.text);
    if (!finding.advice.empty()) {
      text += absl::StrFormat("      %-*s -> %s\n", kNameColumns, "", finding.advice);
    }
  }
  return text + absl::StrFormat("\n%d passed, %d to look at, %d failed\n",
                                Count(findings, Finding::Level::kPass),
                                Count(findings, Finding::Level::kWarn),
                                Count(findings, Finding::Level::kFail));
}

std::string FindingsJson(const std::vector<Finding>& findings) {
  nlohmann::ordered_json json = {{"passed", Count(findings, Finding::Level::kPass)},
                                 {"warnings", Count(findings, Finding::Level::kWarn)},
                                 {"failures", Count(findings, Finding::Level::kFail)},
                                 {"findings", nlohmann::ordered_json::array()}};
  for (const Finding& finding : findings) {
    nlohmann::ordered_json entry = {
        {"level", WordsOf(finding.level).word}, {"name", finding.name}, {"text", finding.text}};
    if (!finding.advice.empty()) entry["advice"] = finding.advice;
    json["findings"].push_back(std::move(entry));
  }
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

bool AnyFailed(const std::vector<Finding>& findings) {
  return Count(findings, Finding::Level::kFail) > 0;
}

}  // namespace tandem::server
