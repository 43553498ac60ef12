#include "server/cli/bench_accept_report.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "scheduler/draft_report.h"
#include "server/cli/format.h"
#include "server/cli/text_table.h"

namespace tandem::server {
namespace {

using nlohmann::ordered_json;
using scheduler::DraftCounts;
using scheduler::DraftRatio;
using scheduler::DraftReason;

constexpr int kBarColumns = 20;
constexpr size_t kMostColumns = 5;  // classes beside each other in a table

std::string Percent(double share) { return absl::StrFormat("%.1f %%", share * 100); }

// A share, 0..1, as a bar.
std::string Bar(double share) {
  static constexpr std::array<const char*, 8> kEighths = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const int eighths = static_cast<int>(std::clamp(share, 0.0, 1.0) * kBarColumns * 8 + 0.5);
  std::string bar;
  for (int i = 0; i < eighths / 8; ++i) bar += "█";
  return bar + kEighths[eighths % 8];
}

AcceptClass SumOf(const std::vector<AcceptClass>& classes) {
  AcceptClass sum = {.task = "all"};
  for (const AcceptClass& each : classes) {
    sum.answers += each.answers;
    sum.run.seconds += each.run.seconds;
    sum.run.tokens += each.run.tokens;
    sum.run.totals += each.run.totals;
    Add(sum.run.drafts, each.run.drafts);
    sum.policy += each.policy;
  }
  return sum;
}

std::string OverviewTable(const std::vector<AcceptClass>& classes) {
  TextTable table = {.columns = {{"prompts"},
                                 {"answers", true},
                                 {"tokens", true},
                                 {"tok/s", true},
                                 {"rounds", true},
                                 {"tokens/round", true},
                                 {"drafted", true},
                                 {"accepted", true},
                                 {"rate", true}}};
  for (const AcceptClass& each : classes) {
    const DraftCounts& drafts = each.run.drafts;
    table.rows.push_back({each.task, CountText(each.answers), CountText(each.run.tokens),
                          absl::StrFormat("%.1f", each.run.tokens_per_s()),
                          CountText(drafts.rounds), absl::StrFormat("%.2f", TokensPerRound(drafts)),
                          CountText(drafts.drafted), CountText(drafts.accepted),
                          drafts.drafted > 0 ? Percent(AcceptanceRate(drafts)) : "-"});
  }
  return MarkdownText(table);
}

// A row per label: a share in each of the classes, and a bar for the last of them, which is all.
std::string ShareTable(const std::string& title, const std::vector<std::string>& labels,
                       const std::vector<AcceptClass>& classes,
                       const std::function<double(const AcceptClass&, int row)>& share) {
  const size_t columns = std::min(classes.size(), kMostColumns);
  const std::vector<AcceptClass>::const_iterator first = classes.end() - columns;
  TextTable table = {.columns = {{title}}};
  for (auto it = first; it != classes.end(); ++it) table.columns.push_back({it->task, true});
  table.columns.push_back({""});
  for (size_t row = 0; row < labels.size(); ++row) {
    std::vector<std::string>& cells = table.rows.emplace_back();
    cells.push_back(labels[row]);
    for (auto it = first; it != classes.end(); ++it) {
      const double value = share(*it, static_cast<int>(row));
      cells.push_back(value < 0 ? "-" : Percent(value));
    }
    cells.push_back(Bar(share(classes.back(), static_cast<int>(row))));
  }
  return MarkdownText(table);
}

std::string PositionTable(const std::vector<AcceptClass>& classes) {
  std::vector<std::string> labels;
  for (int i = 0; i < DraftedPositions(classes.back().run.drafts); ++i) {
    labels.push_back(std::to_string(i + 1));
  }
  if (labels.empty()) return "\nNothing was guessed.\n";
  return "\nAccepted, of the guesses that were verified at each position:\n\n" +
         ShareTable("position", labels, classes, [](const AcceptClass& each, int position) {
           const DraftCounts& drafts = each.run.drafts;
           return drafts.drafted_at[position] > 0 ? AcceptanceAt(drafts, position) : -1.0;
         });
}

std::string TimeTable(const std::vector<AcceptClass>& classes) {
  TextTable table = {.columns = {{"ms per step"},
                                 {"plan", true},
                                 {"target", true},
                                 {"draft", true},
                                 {"commit", true},
                                 {"whole", true},
                                 {"rows", true},
                                 {"steps", true}}};
  const auto add = [&](const std::string& label, const StepTotals& totals) {
    const double steps = static_cast<double>(std::max<int64_t>(totals.steps, 1));
    std::vector<std::string> row = {label};
    for (const double us :
         {totals.plan_us, totals.target_us, totals.draft_us, totals.commit_us, totals.all_us()}) {
      row.push_back(absl::StrFormat("%.3f", us / steps / 1e3));
    }
    row.push_back(absl::StrFormat("%.1f", static_cast<double>(totals.rows) / steps));
    row.push_back(CountText(totals.steps));
    table.rows.push_back(row);
  };
  for (const AcceptClass& each : classes) add(each.task, each.run.totals);
  const StepTotals& all = classes.back().run.totals;
  const double whole = std::max(all.all_us(), 1e-9);
  table.rows.push_back({"share", Percent(all.plan_us / whole), Percent(all.target_us / whole),
                        Percent(all.draft_us / whole), Percent(all.commit_us / whole), "", "", ""});
  return "\n" + MarkdownText(table);
}

std::string PolicyTables(const std::vector<AcceptClass>& classes) {
  const PolicyCounts& all = classes.back().policy;
  if (all.choices == 0) return "";
  int longest = scheduler::kMaxDraftTokens;
  while (longest > 0 && all.by_length[longest] == 0) --longest;
  std::vector<std::string> lengths;
  for (int i = 0; i <= longest; ++i) lengths.push_back(std::to_string(i));
  std::string text =
      "\nChosen for the next round, after every token drawn:\n\n" +
      ShareTable("guesses", lengths, classes, [](const AcceptClass& each, int length) {
        return DraftRatio(each.policy.by_length[length], each.policy.choices);
      });
  std::vector<int> reasons;
  std::vector<std::string> labels;
  for (int i = 0; i < kNumDraftReasons; ++i) {
    if (all.by_reason[i] == 0) continue;
    reasons.push_back(i);
    labels.emplace_back(DraftReasonName(static_cast<DraftReason>(i)));
  }
  text +=
      "\nWhy:\n\n" + ShareTable("reason", labels, classes, [&](const AcceptClass& each, int row) {
        return DraftRatio(each.policy.by_reason[reasons[row]], each.policy.choices);
      });
  text += "\n";
  for (size_t i = 0; i < reasons.size(); ++i) {
    text += absl::StrFormat("- %s: %s\n", labels[i],
                            std::string(DraftReasonText(static_cast<DraftReason>(reasons[i]))));
  }
  return text;
}

double MeasuredRate(const StepTotals& totals) {
  return totals.decode_us > 0 ? static_cast<double>(totals.decode_tokens) / totals.decode_us * 1e6
                              : 0.0;
}

std::string PredictionTable(const std::vector<AcceptClass>& classes) {
  if (classes.back().policy.plain_tokens_per_s.empty()) return "";
  TextTable table = {.columns = {{"tok/s of the engine"},
                                 {"without drafts, predicted", true},
                                 {"as chosen, predicted", true},
                                 {"as chosen, measured", true}}};
  for (const AcceptClass& each : classes) {
    table.rows.push_back({each.task,
                          absl::StrFormat("%.1f", Median(each.policy.plain_tokens_per_s)),
                          absl::StrFormat("%.1f", Median(each.policy.drafted_tokens_per_s)),
                          absl::StrFormat("%.1f", MeasuredRate(each.run.totals))});
  }
  return "\n" + MarkdownText(table) +
         "\nPredicted: median over the steps. Measured: over steps without prompts.\n";
}

std::string Markdown(const AcceptFacts& facts, const std::vector<AcceptClass>& classes) {
  std::vector<AcceptClass> shown;
  if (classes.size() > 1) shown = classes;
  shown.push_back(SumOf(classes));
  std::string text =
      absl::StrFormat("# Acceptance of the drafts of %s: %s\n\n", facts.bench.model, facts.setting);
  text += FactsText(facts.bench);
  text += absl::StrFormat("\n%s, %d at a time.\n\n", facts.prompts, facts.streams);
  text += OverviewTable(shown) + PositionTable(shown) + TimeTable(shown) + PolicyTables(shown) +
          PredictionTable(shown);
  const DraftCounts& all = shown.back().run.drafts;
  if (all.discarded > 0) {
    text += absl::StrFormat("\nNever verified, for want of rows or need: %s guesses.\n",
                            CountText(all.discarded));
  }
  if (all.failed > 0) {
    text += absl::StrFormat("\nDrafts that a NaN or infinity ended: %s.\n", CountText(all.failed));
  }
  return text;
}

ordered_json ClassJson(const AcceptClass& each) {
  const DraftCounts& drafts = each.run.drafts;
  const StepTotals& totals = each.run.totals;
  ordered_json json = {{"task", each.task},
                       {"answers", each.answers},
                       {"tokens", each.run.tokens},
                       {"seconds", each.run.seconds},
                       {"tok_per_s", each.run.tokens_per_s()},
                       {"rounds", drafts.rounds},
                       {"rounds_with_draft", drafts.rounds_with_draft},
                       {"tokens_per_round", TokensPerRound(drafts)},
                       {"drafted", drafts.drafted},
                       {"accepted", drafts.accepted},
                       {"discarded", drafts.discarded},
                       {"failed", drafts.failed},
                       {"acceptance", AcceptanceRate(drafts)},
                       {"positions", ordered_json::array()}};
  for (int i = 0; i < DraftedPositions(drafts); ++i) {
    json["positions"].push_back({{"drafted", drafts.drafted_at[i]},
                                 {"accepted", drafts.accepted_at[i]},
                                 {"acceptance", AcceptanceAt(drafts, i)}});
  }
  json["steps"] = {{"steps", totals.steps},
                   {"rows", totals.rows},
                   {"draft_steps", totals.draft_steps},
                   {"plan_us", totals.plan_us},
                   {"target_us", totals.target_us},
                   {"draft_us", totals.draft_us},
                   {"commit_us", totals.commit_us}};
  ordered_json policy = {{"choices", each.policy.choices},
                         {"by_length", ordered_json::array()},
                         {"by_reason", ordered_json::object()}};
  for (const int64_t count : each.policy.by_length) policy["by_length"].push_back(count);
  for (int i = 0; i < kNumDraftReasons; ++i) {
    policy["by_reason"][DraftReasonName(static_cast<DraftReason>(i))] = each.policy.by_reason[i];
  }
  policy["plain_tok_per_s_predicted"] = Median(each.policy.plain_tokens_per_s);
  policy["drafted_tok_per_s_predicted"] = Median(each.policy.drafted_tokens_per_s);
  policy["tok_per_s_measured"] = MeasuredRate(totals);
  json["policy"] = std::move(policy);
  return json;
}

std::string Json(const AcceptFacts& facts, const std::vector<AcceptClass>& classes) {
  ordered_json json = FactsJson(facts.bench);
  json["setting"] = facts.setting;
  json["prompts"] = facts.prompts;
  json["streams"] = facts.streams;
  json["classes"] = ordered_json::array();
  for (const AcceptClass& each : classes) json["classes"].push_back(ClassJson(each));
  json["all"] = ClassJson(SumOf(classes));
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

PolicyCounts& PolicyCounts::operator+=(const PolicyCounts& other) {
  choices += other.choices;
  for (size_t i = 0; i < by_length.size(); ++i) by_length[i] += other.by_length[i];
  for (size_t i = 0; i < by_reason.size(); ++i) by_reason[i] += other.by_reason[i];
  for (const auto& [mine, others] :
       {std::pair(&plain_tokens_per_s, &other.plain_tokens_per_s),
        std::pair(&drafted_tokens_per_s, &other.drafted_tokens_per_s)}) {
    mine->insert(mine->end(), others->begin(), others->end());
  }
  return *this;
}

void Count(PolicyCounts& counts, const scheduler::StepRecord& record) {
  const scheduler::PlanInput& input = record.input;
  const scheduler::StepPlan& plan = record.plan;
  for (const std::vector<scheduler::SeqRows>* rows : {&plan.decode, &plan.prefill}) {
    for (const scheduler::SeqRows& each : *rows) {
      const size_t seat = each.seq;
      const scheduler::SeqState& state = seat < input.seated.size()
                                             ? input.seated[seat]
                                             : input.waiting[seat - input.seated.size()];
      const bool draws = each.first_position + each.rows - each.drafts == state.known_tokens;
      if (!draws) continue;
      ++counts.choices;
      ++counts.by_length[each.guess];
      ++counts.by_reason[static_cast<int>(each.reason)];
    }
  }
  if (plan.plain_tokens_per_s > 0 && plan.drafted_tokens_per_s > 0) {
    counts.plain_tokens_per_s.push_back(plan.plain_tokens_per_s);
    counts.drafted_tokens_per_s.push_back(plan.drafted_tokens_per_s);
  }
}

std::string_view DraftReasonText(DraftReason reason) {
  switch (reason) {
    case DraftReason::kNotAllowed:
      return "none; drafts are off, or no token is left to guess";
    case DraftReason::kFixed:
      return "always as many as the limit allows";
    case DraftReason::kPays:
      return "so many make the whole batch fastest";
    case DraftReason::kTrial:
      return "one, to see whether guesses hold by now";
    case DraftReason::kAcceptance:
      return "none; guesses for this sequence held too rarely";
    case DraftReason::kCost:
      return "none; even good guesses would cost more than they save";
    case DraftReason::kUnmeasured:
      return "none; what a step costs is not known yet";
  }
  return "";
}

std::string AcceptReport(const AcceptFacts& facts, const std::vector<AcceptClass>& classes,
                         std::string_view format) {
  return format == "json" ? Json(facts, classes) : Markdown(facts, classes);
}

}  // namespace tandem::server
