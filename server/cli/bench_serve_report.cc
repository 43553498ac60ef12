#include "server/cli/bench_serve_report.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "server/cli/text_table.h"

namespace tandem::server {
namespace {

using bench::Figures;
using bench::Latency;
using bench::NamedFigure;
using bench::Report;
using bench::RunResult;

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return bench::Quantile(values, 0.5);
}

std::string Number(double x) { return absl::StrFormat("%.6g", x); }

// Three digits that matter, or all before the point.
std::string Short(double x) {
  if (x >= 100) return absl::StrFormat("%.0f", x);
  return absl::StrFormat(x >= 10 ? "%.1f" : "%.2f", x);
}

std::string Ms(const Latency& latency, double Latency::*value) {
  return latency.count == 0 ? "-" : Short(latency.*value);
}

// One row per run.
TextTable Overview(const Report& report) {
  TextTable table = {.columns = {{"load"},
                                 {"ok", true},
                                 {"failed", true},
                                 {"s", true},
                                 {"req/s", true},
                                 {"out tok/s", true},
                                 {"total tok/s", true},
                                 {"TTFT p50", true},
                                 {"TTFT p99", true},
                                 {"ITL p50", true},
                                 {"ITL p99", true},
                                 {"e2e p50", true},
                                 {"e2e p99", true}}};
  const bool goodput = report.goodput.any();
  if (goodput) table.columns.push_back({"good req/s", true});
  std::vector<Figures> figures;
  for (const RunResult& run : report.runs) figures.push_back(Summarize(run, report.goodput));
  const bool cached = std::any_of(figures.begin(), figures.end(),
                                  [](const Figures& f) { return f.cached_input_tokens > 0; });
  if (cached) table.columns.push_back({"prompt cached", true});
  for (size_t i = 0; i < figures.size(); ++i) {
    const RunResult& run = report.runs[i];
    const Figures& f = figures[i];
    table.rows.push_back(
        {run.label, std::to_string(f.ok), std::to_string(f.failed), Short(f.duration_s),
         Short(f.requests_per_s), Short(f.output_tokens_per_s), Short(f.total_tokens_per_s),
         Ms(f.ttft, &Latency::p50), Ms(f.ttft, &Latency::p99), Ms(f.itl, &Latency::p50),
         Ms(f.itl, &Latency::p99), Ms(f.e2e, &Latency::p50), Ms(f.e2e, &Latency::p99)});
    if (goodput) {
      table.rows.back().push_back(
          f.good_per_s.has_value()
              ? absl::StrFormat("%s (%.0f %%)", Short(*f.good_per_s), *f.good_share * 100)
              : "-");
    }
    if (cached) {
      const auto of = static_cast<double>(std::max<int64_t>(1, f.input_tokens));
      table.rows.back().push_back(
          absl::StrFormat("%.0f %%", 100.0 * static_cast<double>(f.cached_input_tokens) / of));
    }
  }
  return table;
}

// The latencies of one run in full.
TextTable LatencyTable(const Figures& figures) {
  TextTable table = {
      .columns = {
          {"ms"}, {"mean", true}, {"p50", true}, {"p90", true}, {"p99", true}, {"samples", true}}};
  const auto add = [&](const char* name, const Latency& latency) {
    if (latency.count == 0) return;
    table.rows.push_back({name, Short(latency.mean), Short(latency.p50), Short(latency.p90),
                          Short(latency.p99), std::to_string(latency.count)});
  };
  add("TTFT", figures.ttft);
  add("ITL", figures.itl);
  add("TPOT", figures.tpot);
  add("end to end", figures.e2e);
  return table;
}

// How requests failed, over all runs; empty when none did.
std::string FailureText(const Report& report) {
  TextTable table = {.columns = {{"load"}, {"status"}, {"requests", true}}};
  for (const RunResult& run : report.runs) {
    for (const auto& [name, count] : Summarize(run, {}).outcomes) {
      if (name != "OK") table.rows.push_back({run.label, name, std::to_string(count)});
    }
  }
  return table.rows.empty() ? "" : "\n" + MarkdownText(table);
}

// What a reader must know before trusting the numbers.
std::string Remarks(const Report& report) {
  constexpr double kLargeLagMs = 10.0;
  std::string text;
  for (const RunResult& run : report.runs) {
    if (run.interrupted) {
      text += absl::StrFormat("%s: interrupted; %d requests had not finished and do not count.\n",
                              run.label, run.unfinished);
    }
    if (run.server_lost) {
      text += absl::StrFormat("%s: given up, the server did not answer any more.\n", run.label);
    }
    const Latency lag = Summarize(run, {}).send_lag;
    if (lag.p99 > kLargeLagMs) {
      text += absl::StrFormat(
          "%s: this program sent late, by %s ms at p99; the load was less regular than asked.\n",
          run.label, Short(lag.p99));
    }
  }
  return text.empty() ? "" : "\n" + text;
}

std::string FactsText(const Report& report) {
  const bench::ReportFacts& facts = report.facts;
  std::string model = facts.model;
  if (!facts.model_revision.empty()) model += ":" + facts.model_revision;
  return absl::StrFormat(
      "\n`%s`  \n%s  \nserver %s: %s (%s, %s), %s  \nmodel %s (weights %s, KV %s)  \nclient %s "
      "(%s), %s  \n%s\n",
      facts.command_line, facts.workload, facts.address, facts.server_version, facts.server_commit,
      facts.server_build, facts.device, model, facts.weight_format, facts.kv_format, facts.version,
      facts.commit, facts.cpu, facts.date);
}

std::string Markdown(const Report& report) {
  std::string text = MarkdownText(Overview(report));
  if (report.runs.size() == 1) {
    text += "\n" + MarkdownText(LatencyTable(Summarize(report.runs[0], report.goodput)));
  }
  text += FailureText(report) + Remarks(report);
  text +=
      "\nTimes in ms, of requests that ended OK; throughput counts every token that came. ITL: gap "
      "between messages,\ndivided over the tokens of the later one.";
  if (report.goodput.any()) text += " Good: " + GoodputText(report.goodput) + " (ms).";
  return text + "\n" + FactsText(report);
}

// A row per run, a column per figure that any run has.
std::string Csv(const Report& report) {
  std::vector<std::vector<NamedFigure>> figures;
  TextTable table = {.columns = {{"label"}, {"concurrency"}, {"rate"}}};
  const size_t leading = table.columns.size();
  for (const RunResult& run : report.runs) {
    figures.push_back(FigureList(Summarize(run, report.goodput)));
    for (const NamedFigure& figure : figures.back()) {
      const bool known =
          std::any_of(table.columns.begin(), table.columns.end(),
                      [&](const auto& column) { return column.title == figure.name; });
      if (!known) table.columns.push_back({figure.name});
    }
  }
  const size_t figure_columns = table.columns.size() - leading;
  for (const char* title : {"model", "device", "server_commit", "cpu", "date", "command_line"}) {
    table.columns.push_back({title});
  }
  for (size_t i = 0; i < report.runs.size(); ++i) {
    const RunResult& run = report.runs[i];
    std::vector<std::string>& row = table.rows.emplace_back();
    row = {run.label, std::to_string(run.concurrency), Number(run.rate)};
    for (size_t column = leading; column < leading + figure_columns; ++column) {
      const auto found = std::find_if(
          figures[i].begin(), figures[i].end(),
          [&](const auto& figure) { return figure.name == table.columns[column].title; });
      row.push_back(found == figures[i].end() ? "" : Number(found->value));
    }
    const bench::ReportFacts& facts = report.facts;
    for (const std::string& fact : {facts.model, facts.device, facts.server_commit, facts.cpu,
                                    facts.date, facts.command_line}) {
      row.push_back(fact);
    }
  }
  return CsvText(table);
}

TextTable TransportTable(const std::vector<TransportCost>& costs) {
  TextTable table = {.columns = {{"tokens per message", true},
                                 {"in-process tok/s", true},
                                 {"gRPC tok/s", true},
                                 {"gRPC / in-process", true},
                                 {"of best runs", true},
                                 {"CPU us/token in-process", true},
                                 {"gRPC", true},
                                 {"TTFT in-process", true},
                                 {"gRPC", true},
                                 {"ITL in-process", true},
                                 {"gRPC", true}}};
  for (const TransportCost& cost : costs) {
    table.rows.push_back(
        {std::to_string(cost.stream_interval_tokens), Short(cost.in_process_tok_per_s),
         Short(cost.grpc_tok_per_s), absl::StrFormat("%.3f", cost.ratio),
         absl::StrFormat("%.3f", cost.best_ratio), Short(cost.in_process_cpu_us),
         Short(cost.grpc_cpu_us), Short(cost.in_process_ttft_ms), Short(cost.grpc_ttft_ms),
         Short(cost.in_process_itl_ms), Short(cost.grpc_itl_ms)});
  }
  return table;
}

}  // namespace

std::string BenchServeReport(const Report& report, std::string_view format) {
  if (format == "json") return FiguresJson(report);
  if (format == "csv") return Csv(report);
  return Markdown(report);
}

std::vector<TransportCost> TransportCosts(const std::vector<TransportPair>& pairs) {
  std::map<int, std::vector<const TransportPair*>> by_interval;
  for (const TransportPair& pair : pairs) by_interval[pair.stream_interval_tokens].push_back(&pair);
  std::vector<TransportCost> costs;
  for (const auto& [interval, group] : by_interval) {
    std::vector<Figures> in_process, grpc;
    for (const TransportPair* pair : group) {
      in_process.push_back(Summarize(pair->in_process, {}));
      grpc.push_back(Summarize(pair->grpc, {}));
    }
    const auto median = [](const std::vector<Figures>& figures, const auto& value) {
      std::vector<double> values;
      for (const Figures& each : figures) values.push_back(value(each));
      return Median(values);
    };
    const auto rate = [](const Figures& f) { return f.output_tokens_per_s; };
    const auto ttft = [](const Figures& f) { return f.ttft.p50; };
    const auto itl = [](const Figures& f) { return f.itl.mean; };
    const auto cpu = [](const Figures& f) {
      return f.output_tokens > 0 ? f.cpu_s * 1e6 / static_cast<double>(f.output_tokens) : 0.0;
    };
    const auto best = [&](const std::vector<Figures>& figures) {
      double most = 0.0;
      for (const Figures& each : figures) most = std::max(most, rate(each));
      return most;
    };
    std::vector<double> ratios;
    for (size_t i = 0; i < group.size(); ++i) {
      if (rate(in_process[i]) > 0) ratios.push_back(rate(grpc[i]) / rate(in_process[i]));
    }
    costs.push_back({.stream_interval_tokens = interval,
                     .pairs = static_cast<int>(group.size()),
                     .in_process_tok_per_s = median(in_process, rate),
                     .grpc_tok_per_s = median(grpc, rate),
                     .ratio = Median(ratios),
                     .best_ratio = best(in_process) > 0 ? best(grpc) / best(in_process) : 0.0,
                     .in_process_cpu_us = median(in_process, cpu),
                     .grpc_cpu_us = median(grpc, cpu),
                     .in_process_ttft_ms = median(in_process, ttft),
                     .grpc_ttft_ms = median(grpc, ttft),
                     .in_process_itl_ms = median(in_process, itl),
                     .grpc_itl_ms = median(grpc, itl)});
  }
  return costs;
}

std::string TransportReport(const Report& report, const std::vector<TransportPair>& pairs,
                            std::string_view format) {
  const std::vector<TransportCost> costs = TransportCosts(pairs);
  if (format == "csv") return Csv(report);
  if (format == "json") {
    auto json = nlohmann::ordered_json::parse(FiguresJson(report));
    for (const TransportCost& cost : costs) {
      json["transport"].push_back({{"stream_interval_tokens", cost.stream_interval_tokens},
                                   {"pairs", cost.pairs},
                                   {"in_process_tok_per_s", cost.in_process_tok_per_s},
                                   {"grpc_tok_per_s", cost.grpc_tok_per_s},
                                   {"ratio", cost.ratio},
                                   {"best_ratio", cost.best_ratio},
                                   {"in_process_cpu_us_per_token", cost.in_process_cpu_us},
                                   {"grpc_cpu_us_per_token", cost.grpc_cpu_us},
                                   {"in_process_ttft_ms_p50", cost.in_process_ttft_ms},
                                   {"grpc_ttft_ms_p50", cost.grpc_ttft_ms},
                                   {"in_process_itl_ms_mean", cost.in_process_itl_ms},
                                   {"grpc_itl_ms_mean", cost.grpc_itl_ms}});
    }
    return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  std::string text = MarkdownText(TransportTable(costs)) + FailureText(report) + Remarks(report);
  text += absl::StrFormat(
      "\nMedians over %d pairs of runs, each inside the process and then over gRPC (client, server "
      "and model in one process);\nthe ratio is the median of the pairs' ratios. TTFT p50 and mean "
      "ITL in ms.\n",
      costs.empty() ? 0 : costs[0].pairs);
  return text + FactsText(report);
}

std::string CompareReport(const std::string& name_a, const std::string& name_b,
                          const std::vector<bench::ComparedRun>& runs, std::string_view format) {
  if (format == "json") {
    nlohmann::ordered_json json = {
        {"a", name_a}, {"b", name_b}, {"runs", nlohmann::ordered_json::array()}};
    for (const bench::ComparedRun& run : runs) {
      nlohmann::ordered_json figures = nlohmann::ordered_json::object();
      for (const bench::ComparedFigure& figure : run.figures) {
        figures[figure.name] = {{"a", figure.a}, {"b", figure.b}};
        if (figure.ratio.has_value()) figures[figure.name]["ratio"] = *figure.ratio;
      }
      json["runs"].push_back({{"label", run.label}, {"figures", figures}});
    }
    return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  const bool markdown = format == "md";
  TextTable table = {
      .columns = {{"load"}, {"figure"}, {name_a, true}, {name_b, true}, {"B/A", true}}};
  for (const bench::ComparedRun& run : runs) {
    for (const bench::ComparedFigure& figure : run.figures) {
      std::string ratio = markdown ? "-" : "";
      if (figure.ratio.has_value()) {
        ratio = markdown ? absl::StrFormat("%.3f", *figure.ratio) : Number(*figure.ratio);
      }
      table.rows.push_back(
          {run.label, figure.name, Number(figure.a), Number(figure.b), std::move(ratio)});
    }
  }
  return markdown ? MarkdownText(table) : CsvText(table);
}

}  // namespace tandem::server
