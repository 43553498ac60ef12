#include "server/cli/bench_kernels_report.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/cli/format.h"
#include "server/cli/text_table.h"

namespace tandem::server {
namespace {

using nlohmann::ordered_json;

double MedianUs(const KernelResult& result) { return Median(result.seconds) * 1e6; }

double LeastUs(const KernelResult& result) {
  return *std::min_element(result.seconds.begin(), result.seconds.end()) * 1e6;
}

double MostUs(const KernelResult& result) {
  return *std::max_element(result.seconds.begin(), result.seconds.end()) * 1e6;
}

std::string FamilyTable(std::span<const KernelResult> results) {
  TextTable table = {.columns = {{"operation"},
                                 {"rows", true},
                                 {"moves", true},
                                 {"us", true},
                                 {"of runs", true},
                                 {"GB/s", true},
                                 {"of copy", true}}};
  for (const KernelResult& result : results) {
    table.rows.push_back({absl::StrCat(result.test.name, result.cached ? ", within the cache" : ""),
                          absl::StrCat(result.test.rows, result.test.prompt ? " of a prompt" : ""),
                          BytesText(static_cast<double>(result.test.bytes)),
                          absl::StrFormat("%.2f", MedianUs(result)),
                          absl::StrFormat("%.2f to %.2f", LeastUs(result), MostUs(result)),
                          absl::StrFormat("%.1f", BytesPerSecond(result) / 1e9),
                          absl::StrFormat("%.1f %%", 100 * CopyShare(result))});
  }
  return MarkdownText(table);
}

std::string Markdown(const BenchFacts& facts, std::span<const KernelResult> results,
                     std::span<const LeftOut> left_out) {
  std::string text = absl::StrFormat("# Operations of the shape %s\n\n", facts.model);
  text += FactsText(facts);
  for (size_t begin = 0; begin < results.size();) {
    size_t end = begin;
    while (end < results.size() && results[end].family == results[begin].family) ++end;
    text += absl::StrFormat("\n## %s\n\nA copy right before: %.1f GB/s, read and written.\n\n",
                            results[begin].family, results[begin].copy_bytes_per_s / 1e9);
    text += FamilyTable(results.subspan(begin, end - begin));
    begin = end;
  }
  if (!results.empty()) {
    text += absl::StrFormat(
        "\nMoves: bytes of one call by formula, each input read once and each result written once. "
        "Times: medians and range of %d runs. GB/s: 10^9 bytes of that per second. Of many rows "
        "arithmetic decides, not memory; what only reads can be faster than a copy.\n",
        results[0].seconds.size());
  }
  if (!left_out.empty()) text += "\nLeft out:\n\n";
  for (const LeftOut& each : left_out) text += absl::StrFormat("- %s: %s\n", each.what, each.why);
  return text;
}

std::string Json(const BenchFacts& facts, std::span<const KernelResult> results,
                 std::span<const LeftOut> left_out) {
  ordered_json json = FactsJson(facts);
  json["operations"] = ordered_json::array();
  for (const KernelResult& result : results) {
    json["operations"].push_back({{"family", result.family},
                                  {"name", result.test.name},
                                  {"rows", result.test.rows},
                                  {"prompt", result.test.prompt},
                                  {"bytes", result.test.bytes},
                                  {"cached", result.cached},
                                  {"us", MedianUs(result)},
                                  {"least_us", LeastUs(result)},
                                  {"most_us", MostUs(result)},
                                  {"seconds", result.seconds},
                                  {"bytes_per_s", BytesPerSecond(result)},
                                  {"copy_bytes_per_s", result.copy_bytes_per_s},
                                  {"copy_share", CopyShare(result)}});
  }
  json["left_out"] = ordered_json::array();
  for (const LeftOut& each : left_out) {
    json["left_out"].push_back({{"what", each.what}, {"why", each.why}});
  }
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

std::string Csv(const BenchFacts& facts, std::span<const KernelResult> results) {
  TextTable table;
  for (const char* title : {"date", "commit", "backend", "threads", "model", "family", "name",
                            "rows", "prompt", "bytes", "cached", "us", "least_us", "most_us",
                            "bytes_per_s", "copy_bytes_per_s", "copy_share"}) {
    table.columns.push_back({title});
  }
  for (const KernelResult& result : results) {
    table.rows.push_back(
        {facts.date, facts.commit, facts.backend, absl::StrCat(facts.threads), facts.model,
         result.family, result.test.name, absl::StrCat(result.test.rows),
         absl::StrCat(int{result.test.prompt}), absl::StrCat(result.test.bytes),
         absl::StrCat(int{result.cached}), absl::StrFormat("%.3f", MedianUs(result)),
         absl::StrFormat("%.3f", LeastUs(result)), absl::StrFormat("%.3f", MostUs(result)),
         absl::StrFormat("%.0f", BytesPerSecond(result)),
         absl::StrFormat("%.0f", result.copy_bytes_per_s),
         absl::StrFormat("%.4f", CopyShare(result))});
  }
  return CsvText(table);
}

}  // namespace

double BytesPerSecond(const KernelResult& result) {
  const double seconds = Median(result.seconds);
  return seconds > 0 ? static_cast<double>(result.test.bytes) / seconds : 0.0;
}

double CopyShare(const KernelResult& result) {
  return result.copy_bytes_per_s > 0 ? BytesPerSecond(result) / result.copy_bytes_per_s : 0.0;
}

std::string KernelsReport(const BenchFacts& facts, std::span<const KernelResult> results,
                          std::span<const LeftOut> left_out, std::string_view format) {
  if (format == "csv") return Csv(facts, results);
  return format == "json" ? Json(facts, results, left_out) : Markdown(facts, results, left_out);
}

}  // namespace tandem::server
