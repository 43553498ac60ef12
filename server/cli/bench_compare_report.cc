#include "server/cli/bench_compare_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "scheduler/draft_report.h"
#include "server/cli/text_table.h"

namespace tandem::server {
namespace {

using nlohmann::ordered_json;
using scheduler::DraftCounts;

constexpr double kLeastRatio = 0.97;  // what DESIGN.md promises: drafts never cost more than 3 %
constexpr int kShownPositions = 4;

double MedianRate(const std::vector<GenerationRun>& runs) {
  std::vector<double> rates;
  for (const GenerationRun& run : runs) rates.push_back(run.tokens_per_s());
  return Median(rates);
}

// Over all runs of one side.
DraftCounts CountsOf(const std::vector<GenerationRun>& runs) {
  DraftCounts sum;
  for (const GenerationRun& run : runs) Add(sum, run.drafts);
  return sum;
}

std::string Percent(double share) { return absl::StrFormat("%.1f %%", share * 100); }

std::string ChancesText(const std::vector<double>& chances) {
  return absl::StrJoin(chances, ", ", [](std::string* text, double chance) {
    absl::StrAppendFormat(text, "%g", chance);
  });
}

// "88 / 76 / 61 %"
std::string PositionsText(const DraftCounts& counts) {
  const int positions = DraftedPositions(counts);
  std::vector<std::string> shares;
  for (int i = 0; i < std::min(positions, kShownPositions); ++i) {
    shares.push_back(absl::StrFormat("%.0f", AcceptanceAt(counts, i) * 100));
  }
  return absl::StrJoin(shares, " / ") + (positions > kShownPositions ? " / .. %" : " %");
}

std::string Title(const CompareFacts& facts) {
  if (facts.chances.empty()) {
    return absl::StrFormat("# Drafts of %s: %s against %s\n\n", facts.bench.model, facts.a,
                           facts.b);
  }
  return absl::StrFormat(
      "# Drafts of %s if guesses held with a chance of %s (assumed)\n\n"
      "The acceptance is ASSUMED, not measured: a coin decides for every guess whether it holds.\n"
      "All else is run in full: the assistant's chain, the rows of the verification, rollback.\n\n",
      facts.bench.model, ChancesText(facts.chances));
}

// Every class against every number of streams.
std::string RatioMatrix(const std::vector<ComparedTest>& tests) {
  std::vector<int> streams;
  std::vector<std::string> tasks;
  for (const ComparedTest& test : tests) {
    if (std::find(streams.begin(), streams.end(), test.test.streams) == streams.end()) {
      streams.push_back(test.test.streams);
    }
    if (std::find(tasks.begin(), tasks.end(), test.test.task) == tasks.end()) {
      tasks.push_back(test.test.task);
    }
  }
  TextTable table = {.columns = {{"A / B"}}};
  for (const int count : streams) {
    table.columns.push_back({absl::StrFormat("%d stream%s", count, count == 1 ? "" : "s"), true});
  }
  for (const std::string& task : tasks) {
    std::vector<std::string>& row = table.rows.emplace_back(streams.size() + 1, "");
    row[0] = task;
    for (const ComparedTest& test : tests) {
      if (test.test.task != task) continue;
      const size_t column =
          std::find(streams.begin(), streams.end(), test.test.streams) - streams.begin();
      row[column + 1] = absl::StrFormat("%.2f", RatioOf(test).median);
    }
  }
  return MarkdownText(table);
}

std::string TestLabel(const GenerationTest& test) {
  return absl::StrFormat("%s, %d stream%s", test.task, test.streams, test.streams == 1 ? "" : "s");
}

// The least ratio, and every one below what is promised.
std::string LeastText(const std::vector<ComparedTest>& tests) {
  const auto least = std::min_element(tests.begin(), tests.end(), [](const auto& x, const auto& y) {
    return RatioOf(x).median < RatioOf(y).median;
  });
  if (least == tests.end()) return "";
  std::string below;
  for (const ComparedTest& test : tests) {
    const double ratio = RatioOf(test).median;
    if (ratio < kLeastRatio) below += absl::StrFormat("- %s: %.3f\n", TestLabel(test.test), ratio);
  }
  return absl::StrFormat("\nLeast: %.3f (%s). Below %.2f:%s\n", RatioOf(*least).median,
                         TestLabel(least->test), kLeastRatio,
                         below.empty() ? " none." : "\n\n" + below);
}

std::string SpeedTable(const std::vector<ComparedTest>& tests) {
  TextTable table = {.columns = {{"prompts"},
                                 {"streams", true},
                                 {"A tok/s", true},
                                 {"B tok/s", true},
                                 {"A / B", true},
                                 {"of the pairs", true}}};
  for (const ComparedTest& test : tests) {
    const PairRatio ratio = RatioOf(test);
    table.rows.push_back({test.test.task, std::to_string(test.test.streams),
                          absl::StrFormat("%.1f", MedianRate(test.a)),
                          absl::StrFormat("%.1f", MedianRate(test.b)),
                          absl::StrFormat("%.3f", ratio.median),
                          absl::StrFormat("%.3f to %.3f", ratio.least, ratio.most)});
  }
  return MarkdownText(table);
}

// Empty when neither side drafted.
std::string DraftTable(const std::vector<ComparedTest>& tests) {
  TextTable table = {.columns = {{"prompts"},
                                 {"streams", true},
                                 {"side"},
                                 {"tokens/round", true},
                                 {"accepted", true},
                                 {"by position"},
                                 {"guesses", true},
                                 {"rounds with", true}}};
  for (const ComparedTest& test : tests) {
    for (const auto& [side, runs] : {std::pair("A", &test.a), std::pair("B", &test.b)}) {
      const DraftCounts counts = CountsOf(*runs);
      if (counts.drafted == 0) continue;
      table.rows.push_back(
          {test.test.task, std::to_string(test.test.streams), side,
           absl::StrFormat("%.2f", TokensPerRound(counts)), Percent(AcceptanceRate(counts)),
           PositionsText(counts),
           absl::StrFormat("%.2f", scheduler::DraftRatio(counts.drafted, counts.rounds_with_draft)),
           Percent(scheduler::DraftRatio(counts.rounds_with_draft, counts.rounds))});
    }
  }
  if (table.rows.empty()) return "";
  return "\n" + MarkdownText(table) +
         "\nguesses: verified per round that had any; rounds with: their share. accepted: of the "
         "guesses\nverified; by position: of those verified there.\n";
}

// The side of a test whose forwards of the drafter are looked at.
const std::vector<GenerationRun>* DraftingRuns(const std::vector<ComparedTest>& tests,
                                               const GenerationTest** of) {
  const ComparedTest* found = nullptr;
  for (const ComparedTest& test : tests) {
    const bool drafted = CountsOf(test.a).drafted + CountsOf(test.b).drafted > 0;
    if (drafted && (found == nullptr || test.test.streams < found->test.streams)) found = &test;
  }
  if (found == nullptr) return nullptr;
  *of = &found->test;
  return CountsOf(found->a).drafted > 0 ? &found->a : &found->b;
}

std::string DraftStepText(const std::vector<ComparedTest>& tests,
                          const std::vector<double>& read_bytes_per_s) {
  const GenerationTest* of = nullptr;
  const std::vector<GenerationRun>* const runs = DraftingRuns(tests, &of);
  if (runs == nullptr) return "";
  const DraftStepFigures step = DraftStepOf(*runs, read_bytes_per_s);
  if (step.us == 0) return "";
  std::string text = absl::StrFormat("\nA forward of the assistant takes %.3f ms (%s)",
                                     step.us / 1e3, TestLabel(*of));
  if (step.ratio > 0) {
    text +=
        absl::StrFormat(":\n%.2f times what its %.2f MB take at the %.1f GB/s read in the same run",
                        step.ratio, step.bytes / 1e6, Median(read_bytes_per_s) / 1e9);
  }
  return text + ".\n";
}

// Median over the repetitions of a step's time over that of one row.
double VerificationRatio(const BenchResult& rows, const BenchResult& one) {
  std::vector<double> ratios;
  for (size_t i = 0; i < rows.seconds.size(); ++i) {
    ratios.push_back(rows.seconds[i] / rows.steps / (one.seconds[i] / one.steps));
  }
  return Median(ratios);
}

std::string VerificationTable(const std::vector<BenchResult>& results) {
  if (results.empty()) return "";
  TextTable table = {
      .columns = {{"rows verified", true}, {"ms per step", true}, {"times 1 row", true}}};
  for (const BenchResult& result : results) {
    table.rows.push_back({std::to_string(result.test.rows),
                          absl::StrFormat("%.3f", StepSeconds(result) * 1e3),
                          absl::StrFormat("%.2f", VerificationRatio(result, results[0]))});
  }
  return "\n" + MarkdownText(table);
}

std::string Markdown(const CompareFacts& facts, const std::vector<ComparedTest>& tests,
                     const CompareYardsticks& yardsticks) {
  std::string text = Title(facts) + FactsText(facts.bench) + "\n";
  text += absl::StrFormat("A: %s. B: %s.\n%s, at most %d tokens each.\n\n", facts.a, facts.b,
                          facts.prompts, facts.max_tokens);
  if (tests.size() > 1) text += RatioMatrix(tests) + LeastText(tests) + "\n";
  text += SpeedTable(tests) + DraftTable(tests);
  text += DraftStepText(tests, yardsticks.read_bytes_per_s);
  text += VerificationTable(yardsticks.verification);
  text += absl::StrFormat(
      "\nMedians of %d pairs of A, B, B, A on one loaded engine; tok/s counts generated tokens "
      "over\nthe whole run, prompts included. Every answer was the same with and without "
      "drafts.\n",
      tests.empty() ? 0 : static_cast<int>(tests[0].a.size()));
  return text;
}

ordered_json SideJson(const std::vector<GenerationRun>& runs) {
  const DraftCounts counts = CountsOf(runs);
  StepTotals totals;
  ordered_json seconds = ordered_json::array();
  for (const GenerationRun& run : runs) {
    totals += run.totals;
    seconds.push_back(run.seconds);
  }
  ordered_json json = {{"tok_per_s", MedianRate(runs)},
                       {"tokens", runs.empty() ? 0 : runs[0].tokens},
                       {"seconds", seconds},
                       {"tokens_per_round", TokensPerRound(counts)},
                       {"rounds", counts.rounds},
                       {"rounds_with_draft", counts.rounds_with_draft},
                       {"drafted", counts.drafted},
                       {"accepted", counts.accepted},
                       {"acceptance", AcceptanceRate(counts)},
                       {"acceptance_at", ordered_json::array()},
                       {"steps", totals.steps},
                       {"draft_steps", totals.draft_steps},
                       {"plan_us", totals.plan_us},
                       {"target_us", totals.target_us},
                       {"draft_us", totals.draft_us},
                       {"commit_us", totals.commit_us}};
  for (int i = 0; i < DraftedPositions(counts); ++i) {
    json["acceptance_at"].push_back(AcceptanceAt(counts, i));
  }
  return json;
}

std::string Json(const CompareFacts& facts, const std::vector<ComparedTest>& tests,
                 const CompareYardsticks& yardsticks) {
  ordered_json json = FactsJson(facts.bench);
  json["a"] = facts.a;
  json["b"] = facts.b;
  json["prompts"] = facts.prompts;
  json["max_tokens"] = facts.max_tokens;
  json["acceptance_is_assumed"] = !facts.chances.empty();
  json["assumed_chances"] = facts.chances;
  json["tests"] = ordered_json::array();
  for (const ComparedTest& test : tests) {
    const PairRatio ratio = RatioOf(test);
    json["tests"].push_back({{"task", test.test.task},
                             {"streams", test.test.streams},
                             {"answers", test.test.prompts.size()},
                             {"pairs", test.a.size()},
                             {"ratio", ratio.median},
                             {"ratio_least", ratio.least},
                             {"ratio_most", ratio.most},
                             {"a", SideJson(test.a)},
                             {"b", SideJson(test.b)}});
  }
  const GenerationTest* of = nullptr;
  if (const std::vector<GenerationRun>* const runs = DraftingRuns(tests, &of)) {
    const DraftStepFigures step = DraftStepOf(*runs, yardsticks.read_bytes_per_s);
    json["draft_step"] = {{"streams", of->streams},
                          {"us", step.us},
                          {"bytes", step.bytes},
                          {"times_its_bytes", step.ratio}};
  }
  json["read_bytes_per_s"] = yardsticks.read_bytes_per_s;
  json["verification"] = ordered_json::array();
  for (const BenchResult& result : yardsticks.verification) {
    json["verification"].push_back(
        {{"rows", result.test.rows},
         {"step_ms", StepSeconds(result) * 1e3},
         {"times_one_row", VerificationRatio(result, yardsticks.verification[0])}});
  }
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string Csv(const CompareFacts& facts, const std::vector<ComparedTest>& tests) {
  TextTable table;
  for (const char* title : {"model",
                            "a",
                            "b",
                            "assumed",
                            "prompts",
                            "streams",
                            "pairs",
                            "a_tok_per_s",
                            "b_tok_per_s",
                            "ratio",
                            "ratio_least",
                            "ratio_most",
                            "a_tokens_per_round",
                            "a_acceptance",
                            "b_tokens_per_round",
                            "b_acceptance",
                            "cpu",
                            "commit",
                            "date",
                            "command_line"}) {
    table.columns.push_back({title});
  }
  const auto number = [](double x) { return absl::StrFormat("%.6g", x); };
  for (const ComparedTest& test : tests) {
    const PairRatio ratio = RatioOf(test);
    const DraftCounts a = CountsOf(test.a);
    const DraftCounts b = CountsOf(test.b);
    table.rows.push_back({facts.bench.model,
                          facts.a,
                          facts.b,
                          ChancesText(facts.chances),
                          test.test.task,
                          std::to_string(test.test.streams),
                          std::to_string(test.a.size()),
                          number(MedianRate(test.a)),
                          number(MedianRate(test.b)),
                          number(ratio.median),
                          number(ratio.least),
                          number(ratio.most),
                          number(TokensPerRound(a)),
                          number(AcceptanceRate(a)),
                          number(TokensPerRound(b)),
                          number(AcceptanceRate(b)),
                          facts.bench.cpu,
                          facts.bench.commit,
                          facts.bench.date,
                          facts.bench.command_line});
  }
  return CsvText(table);
}

}  // namespace

PairRatio RatioOf(const ComparedTest& test) {
  std::vector<double> ratios;
  for (size_t i = 0; i < test.a.size(); ++i) {
    ratios.push_back(test.a[i].tokens_per_s() / test.b[i].tokens_per_s());
  }
  if (ratios.empty()) return {};
  const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  return {.median = Median(ratios), .least = *least, .most = *most};
}

DraftStepFigures DraftStepOf(const std::vector<GenerationRun>& runs,
                             const std::vector<double>& read_bytes_per_s) {
  std::vector<double> us, bytes, ratios;
  for (size_t i = 0; i < runs.size(); ++i) {
    const StepTotals& totals = runs[i].totals;
    if (totals.draft_steps == 0) continue;
    us.push_back(totals.draft_us / static_cast<double>(totals.draft_steps));
    bytes.push_back(totals.draft_bytes / static_cast<double>(totals.draft_steps));
    if (i < read_bytes_per_s.size() && read_bytes_per_s[i] > 0 && totals.draft_bytes > 0) {
      ratios.push_back(totals.draft_us / (totals.draft_bytes / read_bytes_per_s[i] * 1e6));
    }
  }
  return {.us = Median(us), .bytes = Median(bytes), .ratio = Median(ratios)};
}

std::string PairsReport(const CompareFacts& facts, const std::vector<ComparedTest>& tests,
                        const CompareYardsticks& yardsticks, std::string_view format) {
  if (format == "json") return Json(facts, tests, yardsticks);
  if (format == "csv") return Csv(facts, tests);
  return Markdown(facts, tests, yardsticks);
}

}  // namespace tandem::server
