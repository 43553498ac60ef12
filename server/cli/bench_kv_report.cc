#include "server/cli/bench_kv_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/cli/format.h"
#include "server/cli/text_table.h"

namespace tandem::server {
namespace {

using engine::kFull;
using engine::kSliding;
using engine::KvGroup;
using nlohmann::ordered_json;

const char* GroupText(KvGroup group) { return group == kFull ? "full" : "sliding"; }

struct Ratio {
  double median = 0.0;
  double least = 0.0;
  double most = 0.0;
};

Ratio RatioOf(const PairTimes& times) {
  const std::vector<double> ratios = times.Ratios();
  if (ratios.empty()) return {};
  const auto [least, most] = std::minmax_element(ratios.begin(), ratios.end());
  return {.median = Median(ratios), .least = *least, .most = *most};
}

double Us(const std::vector<double>& seconds) { return Median(seconds) * 1e6; }

// Bytes of codes and scales per second.
double ReadRate(const KvGroupSpeed& group, int visible, const PairTimes& times) {
  const double seconds = Median(times.format);
  return seconds > 0 ? group.row_bytes * visible / seconds : 0.0;
}

// What the rows of all sequences take together.
double RowsOf(const KvTest& test, const KvGroupSpeed& group) {
  return group.row_bytes * test.visible * test.sequences;
}

std::string RatioCell(const Ratio& ratio) { return absl::StrFormat("%.3f", ratio.median); }
std::string RangeCell(const Ratio& ratio) {
  return absl::StrFormat("%.3f to %.3f", ratio.least, ratio.most);
}

std::string BytesTable(const KvSpeedFacts& facts, const KvSpeed& speed) {
  TextTable table = {.columns = {{"layers"},
                                 {"format"},
                                 {"bytes/token", true},
                                 {"of bf16", true},
                                 {"store, us/token", true},
                                 {"bf16, us/token", true},
                                 {"format / bf16", true},
                                 {"of pairs", true}}};
  for (const KvGroup group : {kFull, kSliding}) {
    if (facts.layers[group] == 0) continue;
    const double bf16_bytes = speed.bf16.groups[group].bytes_per_token;
    for (const KvFormatSpeed& format : speed.formats) {
      const KvGroupSpeed& measured = format.groups[group];
      const Ratio ratio = RatioOf(measured.encode);
      table.rows.push_back({absl::StrFormat("%d %s", facts.layers[group], GroupText(group)),
                            format.choice.name, absl::StrFormat("%.0f", measured.bytes_per_token),
                            absl::StrFormat("%.4f", measured.bytes_per_token / bf16_bytes),
                            absl::StrFormat("%.2f", Us(measured.encode.format)),
                            absl::StrFormat("%.2f", Us(measured.encode.bf16)), RatioCell(ratio),
                            RangeCell(ratio)});
    }
  }
  return MarkdownText(table);
}

std::string ContextsText(const KvTest& test) {
  std::vector<std::string> texts;
  for (const int context : test.contexts) texts.push_back(CountText(context));
  return absl::StrJoin(texts, ", ");
}

std::string AttentionTables(const KvSpeedFacts& facts, const KvSpeed& speed) {
  std::string text;
  for (size_t t = 0; t < speed.tests.size(); ++t) {
    const KvTest& test = speed.tests[t];
    text += absl::StrFormat(
        "\nAttention of the %d %s layers, context %s: %s sequences of %s visible positions.\n\n",
        facts.layers[test.group], GroupText(test.group), ContextsText(test),
        CountText(test.sequences), CountText(test.visible));
    TextTable table = {.columns = {{"format"},
                                   {"rows"},
                                   {"us/token", true},
                                   {"GB/s", true},
                                   {"bf16, us/token", true},
                                   {"format / bf16", true},
                                   {"of pairs", true}}};
    for (const KvFormatSpeed& format : speed.formats) {
      const KvGroupSpeed& group = format.groups[test.group];
      const PairTimes& times = group.attention[t];
      const Ratio ratio = RatioOf(times);
      const double rows = RowsOf(test, group);
      const bool cached = rows <= static_cast<double>(facts.cache_bytes);
      table.rows.push_back(
          {format.choice.name, BytesText(rows) + (cached ? ", within the cache" : ""),
           absl::StrFormat("%.1f", Us(times.format)),
           absl::StrFormat("%.1f", ReadRate(group, test.visible, times) / 1e9),
           absl::StrFormat("%.1f", Us(times.bf16)), RatioCell(ratio), RangeCell(ratio)});
    }
    text += MarkdownText(table);
  }
  return text;
}

std::string Markdown(const KvSpeedFacts& facts, const KvSpeed& speed) {
  std::string text = absl::StrFormat("# KV formats of the shape %s\n\n", facts.bench.model);
  text += FactsText(facts.bench);
  text += absl::StrFormat("\nBlocks of %d tokens, no layer protected, last-level cache %s.\n\n",
                          facts.block_tokens, BytesText(static_cast<double>(facts.cache_bytes)));
  text += BytesTable(facts, speed) + AttentionTables(facts, speed);
  const size_t pairs = speed.formats.empty() || speed.tests.empty()
                           ? 0
                           : speed.formats[0].groups[speed.tests[0].group].encode.format.size();
  text += absl::StrFormat(
      "\nTimes: medians of %d pairs (format, bf16, bf16, format), of one token in all the layers "
      "named. Store: norm, rotary embedding and storing of a chunk of %d rows. GB/s: codes and "
      "scales that attention reads (10^9 bytes). Ratios: median and range of the pairs.\n",
      pairs, kEncodeRows);
  const auto [least, most] =
      std::minmax_element(facts.read_bytes_per_s.begin(), facts.read_bytes_per_s.end());
  if (least != facts.read_bytes_per_s.end() && *most > 0) {
    text += absl::StrFormat("Read bandwidth before each test of attention: %.1f to %.1f GB/s.\n",
                            *least / 1e9, *most / 1e9);
  }
  return text;
}

ordered_json TimesJson(const PairTimes& times) {
  const Ratio ratio = RatioOf(times);
  return {{"us_per_token", Us(times.format)},
          {"bf16_us_per_token", Us(times.bf16)},
          {"ratio", ratio.median},
          {"least_ratio", ratio.least},
          {"most_ratio", ratio.most},
          {"ratios", times.Ratios()}};
}

std::string Json(const KvSpeedFacts& facts, const KvSpeed& speed) {
  ordered_json json = FactsJson(facts.bench);
  json["block_tokens"] = facts.block_tokens;
  json["cache_bytes"] = facts.cache_bytes;
  json["read_bytes_per_s"] = facts.read_bytes_per_s;
  json["groups"] = ordered_json::array();
  for (const KvGroup group : {kFull, kSliding}) {
    if (facts.layers[group] == 0) continue;
    ordered_json formats = ordered_json::array();
    for (const KvFormatSpeed& format : speed.formats) {
      const KvGroupSpeed& measured = format.groups[group];
      formats.push_back(
          {{"format", format.choice.name},
           {"bytes_per_token", measured.bytes_per_token},
           {"bytes_of_bf16", measured.bytes_per_token / speed.bf16.groups[group].bytes_per_token},
           {"encode", TimesJson(measured.encode)}});
    }
    json["groups"].push_back({{"layers", GroupText(group)},
                              {"num_layers", facts.layers[group]},
                              {"formats", std::move(formats)}});
  }
  json["attention"] = ordered_json::array();
  for (size_t t = 0; t < speed.tests.size(); ++t) {
    const KvTest& test = speed.tests[t];
    ordered_json formats = ordered_json::array();
    for (const KvFormatSpeed& format : speed.formats) {
      const KvGroupSpeed& group = format.groups[test.group];
      ordered_json each = {{"format", format.choice.name}, {"row_bytes", RowsOf(test, group)}};
      each.update(TimesJson(group.attention[t]));
      each["read_bytes_per_s"] = ReadRate(group, test.visible, group.attention[t]);
      formats.push_back(std::move(each));
    }
    json["attention"].push_back({{"layers", GroupText(test.group)},
                                 {"contexts", test.contexts},
                                 {"visible", test.visible},
                                 {"sequences", test.sequences},
                                 {"formats", std::move(formats)}});
  }
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace

std::string KvSpeedReport(const KvSpeedFacts& facts, const KvSpeed& speed,
                          std::string_view format) {
  return format == "json" ? Json(facts, speed) : Markdown(facts, speed);
}

}  // namespace tandem::server
