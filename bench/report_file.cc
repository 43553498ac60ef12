#include "bench/report_file.h"

#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tandem::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "tandem-bench-serve";
constexpr int kFormatVersion = 1;

struct FactField {
  const char* name;
  std::string ReportFacts::*member;
};
constexpr FactField kFacts[] = {
    {"command_line", &ReportFacts::command_line},
    {"version", &ReportFacts::version},
    {"commit", &ReportFacts::commit},
    {"date", &ReportFacts::date},
    {"cpu", &ReportFacts::cpu},
    {"address", &ReportFacts::address},
    {"server_version", &ReportFacts::server_version},
    {"server_commit", &ReportFacts::server_commit},
    {"server_build", &ReportFacts::server_build},
    {"device", &ReportFacts::device},
    {"model", &ReportFacts::model},
    {"model_revision", &ReportFacts::model_revision},
    {"weight_format", &ReportFacts::weight_format},
    {"kv_format", &ReportFacts::kv_format},
    {"workload", &ReportFacts::workload},
};

Json FactsJson(const ReportFacts& facts) {
  Json json = Json::object();
  for (const FactField& field : kFacts) json[field.name] = facts.*field.member;
  return json;
}

Json RunJson(const RunResult& run) {
  return {{"label", run.label},
          {"concurrency", run.concurrency},
          {"rate", run.rate},
          {"interrupted", run.interrupted},
          {"unfinished", run.unfinished},
          {"cpu_s", run.cpu_s},
          {"server_lost", run.server_lost}};
}

Json RequestJson(const RequestRecord& record) {
  Json messages = Json::array();
  for (const TokenMessage& message : record.messages) {
    messages.push_back(Json::array({message.time_us, message.tokens}));
  }
  return {{"index", record.index},
          {"due_us", record.due_us},
          {"sent_us", record.sent_us},
          {"end_us", record.end_us},
          {"prompt_tokens", record.prompt_tokens},
          {"cached_prompt_tokens", record.cached_prompt_tokens},
          {"output_tokens", record.output_tokens},
          {"messages", std::move(messages)},
          {"code", record.code},
          {"reason", record.reason},
          {"message", record.message},
          {"retries", record.retries}};
}

std::string Dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json HeadJson(const Report& report) {
  return {{"format", kFormat},
          {"format_version", kFormatVersion},
          {"facts", FactsJson(report.facts)},
          {"goodput", GoodputText(report.goodput)},
          {"runs", Json::array()}};
}

RequestRecord ParseRequest(const Json& json) {
  RequestRecord record;
  json.at("index").get_to(record.index);
  json.at("due_us").get_to(record.due_us);
  json.at("sent_us").get_to(record.sent_us);
  json.at("end_us").get_to(record.end_us);
  json.at("prompt_tokens").get_to(record.prompt_tokens);
  record.cached_prompt_tokens = json.value("cached_prompt_tokens", 0);  // older files lack it
  json.at("output_tokens").get_to(record.output_tokens);
  for (const Json& message : json.at("messages")) {
    record.messages.push_back(
        {.time_us = message.at(0).get<int64_t>(), .tokens = message.at(1).get<int>()});
  }
  json.at("code").get_to(record.code);
  json.at("reason").get_to(record.reason);
  json.at("message").get_to(record.message);
  json.at("retries").get_to(record.retries);
  return record;
}

RunResult ParseRun(const Json& json) {
  RunResult run;
  json.at("label").get_to(run.label);
  json.at("concurrency").get_to(run.concurrency);
  json.at("rate").get_to(run.rate);
  json.at("interrupted").get_to(run.interrupted);
  json.at("unfinished").get_to(run.unfinished);
  json.at("cpu_s").get_to(run.cpu_s);
  json.at("server_lost").get_to(run.server_lost);
  for (const Json& request : json.at("requests")) run.requests.push_back(ParseRequest(request));
  return run;
}

// Counts that later become sizes of vectors.
absl::Status CheckTokens(const RunResult& run) {
  for (const RequestRecord& record : run.requests) {
    int64_t tokens = 0;
    for (const TokenMessage& message : record.messages) {
      if (message.tokens < 1) return absl::InvalidArgumentError("it has a message without tokens");
      tokens += message.tokens;
    }
    if (tokens > (1 << 24)) {
      return absl::InvalidArgumentError("it has a request of more than 16 million tokens");
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string SavedText(const Report& report) {
  Json json = HeadJson(report);
  for (const RunResult& run : report.runs) {
    Json& saved = json["runs"].emplace_back(RunJson(run));
    saved["requests"] = Json::array();
    for (const RequestRecord& record : run.requests) {
      saved["requests"].push_back(RequestJson(record));
    }
  }
  return Dump(json, -1);
}

absl::StatusOr<Report> ParseSaved(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.value("format", Json()) != kFormat) {
    return absl::InvalidArgumentError(
        "it is not a file that `tandem bench serve --save` has written");
  }
  Report report;
  try {
    if (const int version = json.at("format_version").get<int>(); version != kFormatVersion) {
      return absl::InvalidArgumentError(absl::StrCat("its format has version ", version,
                                                     "; this program reads ", kFormatVersion));
    }
    for (const FactField& field : kFacts) {
      json.at("facts").at(field.name).get_to(report.facts.*field.member);
    }
    const absl::StatusOr<GoodputLimits> goodput =
        ParseGoodput(json.at("goodput").get_ref<const std::string&>());
    if (!goodput.ok()) return goodput.status();
    report.goodput = *goodput;
    for (const Json& run : json.at("runs")) report.runs.push_back(ParseRun(run));
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("it is damaged: ", error.what()));
  }
  for (const RunResult& run : report.runs) {
    if (absl::Status s = CheckTokens(run); !s.ok()) return s;
  }
  return report;
}

std::string FiguresJson(const Report& report) {
  Json json = HeadJson(report);
  for (const RunResult& run : report.runs) {
    const Figures figures = Summarize(run, report.goodput);
    Json& shown = json["runs"].emplace_back(RunJson(run));
    shown["outcomes"] = figures.outcomes;
    Json& values = shown["figures"] = Json::object();
    for (const NamedFigure& figure : FigureList(figures)) values[figure.name] = figure.value;
  }
  return Dump(json, 2);
}

}  // namespace tandem::bench
