#include "server/cli/kv_quality_report.h"

#include <functional>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "bench/kv_plot.h"
#include "server/cli/format.h"
#include "server/cli/text_table.h"

namespace tandem::server {
namespace {

using engine::kFull;
using engine::kSliding;
using nlohmann::ordered_json;

constexpr std::string_view kFloor = "f32";  // nothing is rounded

std::string KlText(double kl) { return kl > 0 ? absl::StrFormat("%.2e", kl) : "0"; }
std::string PercentText(double share) { return absl::StrFormat("%.2f %%", share * 100); }

std::string OverviewTable(const QualityResult& result) {
  TextTable table = {.columns = {{"format"},
                                 {"bytes/token", true},
                                 {"full", true},
                                 {"sliding", true},
                                 {absl::StrFormat("of %s", result.reference.choice.name), true},
                                 {"mean KL", true},
                                 {"99.9 % KL", true},
                                 {"max KL", true},
                                 {"top-1", true},
                                 {"max |logit|", true},
                                 {"same answers", true}}};
  for (const FormatQuality& format : result.formats) {
    const DivergenceFigures figures = FiguresOf(format.all);
    table.rows.push_back({format.choice.name, absl::StrFormat("%.0f", format.all_bytes_per_token()),
                          absl::StrFormat("%.0f", format.bytes_per_token[kFull]),
                          absl::StrFormat("%.0f", format.bytes_per_token[kSliding]),
                          absl::StrFormat("%.4f", format.all_bytes_per_token() /
                                                      result.reference.all_bytes_per_token()),
                          KlText(figures.mean_kl), KlText(figures.kl_999), KlText(figures.max_kl),
                          PercentText(figures.top_agreement()),
                          absl::StrFormat("%.3f", figures.max_abs),
                          absl::StrFormat("%d of %d", format.same_texts, result.texts)});
  }
  return MarkdownText(table);
}

// Mean divergence and agreement of each format, a pair of columns for each part of the positions.
std::string PartsTable(
    const QualityResult& result, const std::vector<std::string>& parts,
    const std::function<const Divergences&(const FormatQuality&, size_t)>& part) {
  TextTable table = {.columns = {{"format"}}};
  std::vector<size_t> shown;
  std::vector<std::string> positions = {"positions"};
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto count = static_cast<int64_t>(part(result.formats[0], i).kl.size());
    if (count == 0) continue;
    shown.push_back(i);
    table.columns.push_back({parts[i] + ": KL", true});
    table.columns.push_back({"top-1", true});
    positions.insert(positions.end(), {CountText(count), ""});
  }
  table.rows.push_back(positions);
  for (const FormatQuality& format : result.formats) {
    std::vector<std::string>& row = table.rows.emplace_back();
    row.push_back(format.choice.name);
    for (const size_t i : shown) {
      const DivergenceFigures figures = FiguresOf(part(format, i));
      row.push_back(KlText(figures.mean_kl));
      row.push_back(PercentText(figures.top_agreement()));
    }
  }
  return MarkdownText(table);
}

std::string RangeText(const PositionRange& range) {
  return absl::StrFormat("%d-%d", range.begin, range.end - 1);
}

const FormatQuality* FloorOf(const QualityResult& result) {
  for (const FormatQuality& format : result.formats) {
    if (format.choice.name == kFloor && result.reference.choice.name != kFloor) return &format;
  }
  return nullptr;
}

std::string Markdown(const QualityFacts& facts, const QualityResult& result) {
  const std::string& reference = result.reference.choice.name;
  std::string text =
      absl::StrFormat("# KV formats of %s against %s\n\n", facts.bench.model, reference);
  text += FactsText(facts.bench);
  text += absl::StrFormat(
      "\n%s; %s of them answered with at most %d tokens: %s positions scored.\n"
      "Every format is fed the greedy answers of %s, and the distribution of the next token is "
      "compared at every place of an answer.\n\n",
      facts.prompts, CountText(result.texts), facts.max_tokens, CountText(result.positions),
      reference);
  text += OverviewTable(result);
  if (const FormatQuality* const floor = FloorOf(result)) {
    const DivergenceFigures figures = FiguresOf(floor->all);
    text += absl::StrFormat(
        "\nThe floor is the row f32: %s itself is %s from keys and values that are not rounded "
        "(top-1 %s).\n",
        reference, KlText(figures.mean_kl), PercentText(figures.top_agreement()));
  }
  if (result.tasks.size() > 1) {
    text += "\nBy class of prompts:\n\n" +
            PartsTable(
                result, result.tasks,
                [](const FormatQuality& format, size_t i) -> auto& { return format.by_task[i]; });
  }
  std::vector<std::string> ranges;
  for (const PositionRange& range : result.ranges) ranges.push_back(RangeText(range));
  text += "\nBy position in the sequence:\n\n" +
          PartsTable(
              result, ranges,
              [](const FormatQuality& format, size_t i) -> auto& { return format.by_range[i]; });
  text += absl::StrFormat(
      "\nKL: of %s from the format, nats. top-1: the most likely id is the same. max |logit|: the "
      "largest difference of a logit. same answers: every top-1 is the same, so that the format "
      "alone would have answered the same. bytes/token: of blocks of %d tokens as allocated, "
      "scales and padding counted.\n",
      reference, facts.block_tokens);
  return text;
}

ordered_json FiguresJson(const Divergences& divergences) {
  const DivergenceFigures figures = FiguresOf(divergences);
  return {{"positions", figures.positions},  {"mean_kl", figures.mean_kl},
          {"kl_999", figures.kl_999},        {"max_kl", figures.max_kl},
          {"same_top", figures.same_top},    {"top_agreement", figures.top_agreement()},
          {"max_abs_logit", figures.max_abs}};
}

std::string Json(const QualityFacts& facts, const QualityResult& result) {
  ordered_json json = FactsJson(facts.bench);
  json["prompts"] = facts.prompts;
  json["max_tokens"] = facts.max_tokens;
  json["block_tokens"] = facts.block_tokens;
  json["reference"] = result.reference.choice.name;
  json["reference_bytes_per_token"] = result.reference.all_bytes_per_token();
  json["texts"] = result.texts;
  json["positions"] = result.positions;
  json["formats"] = ordered_json::array();
  for (const FormatQuality& format : result.formats) {
    ordered_json each = {{"format", format.choice.name},
                         {"formats", kvcache::FormatsText(format.choice.formats)},
                         {"bytes_per_token", format.all_bytes_per_token()},
                         {"full_bytes_per_token", format.bytes_per_token[kFull]},
                         {"sliding_bytes_per_token", format.bytes_per_token[kSliding]},
                         {"same_texts", format.same_texts}};
    each.update(FiguresJson(format.all));
    each["tasks"] = ordered_json::array();
    for (size_t i = 0; i < result.tasks.size(); ++i) {
      ordered_json part = {{"task", result.tasks[i]}};
      part.update(FiguresJson(format.by_task[i]));
      each["tasks"].push_back(std::move(part));
    }
    each["ranges"] = ordered_json::array();
    for (size_t i = 0; i < result.ranges.size(); ++i) {
      if (format.by_range[i].kl.empty()) continue;
      ordered_json part = {{"begin", result.ranges[i].begin}, {"end", result.ranges[i].end}};
      part.update(FiguresJson(format.by_range[i]));
      each["ranges"].push_back(std::move(part));
    }
    json["formats"].push_back(std::move(each));
  }
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string QualityReport(const QualityFacts& facts, const QualityResult& result,
                          std::string_view format) {
  return format == "json" ? Json(facts, result) : Markdown(facts, result);
}

std::string QualityPlot(const QualityFacts& facts, const QualityResult& result) {
  std::vector<bench::KvPlotPoint> points;
  const FormatQuality* const floor = FloorOf(result);
  for (const FormatQuality& format : result.formats) {
    const double kl = FiguresOf(format.all).mean_kl;
    if (&format == floor) {
      points.push_back({result.reference.choice.name + " (from f32)",
                        result.reference.all_bytes_per_token(), kl});
    } else {
      points.push_back({format.choice.name, format.all_bytes_per_token(), kl});
    }
  }
  return bench::KvPlotSvg(
      absl::StrFormat("KV formats of %s against %s", facts.bench.model,
                      result.reference.choice.name),
      {absl::StrFormat("%s; %s positions of %s greedy answers", facts.prompts,
                       CountText(result.positions), CountText(result.texts)),
       absl::StrFormat("%s (%s), %s, %s", facts.bench.version, facts.bench.commit,
                       facts.bench.backend, facts.bench.date),
       facts.bench.command_line},
      points);
}

}  // namespace tandem::server
