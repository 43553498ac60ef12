#include "server/cli/inspect_kv.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "absl/strings/str_format.h"
#include "engine/logit_noise.h"
#include "server/cli/format.h"
#include "server/cli/text_table.h"
#include "server/config/kv_setting.h"

namespace tandem::server {
namespace {

using engine::kFull;
using engine::kSliding;
using engine::KvGroup;
using kernels::KvFormat;

constexpr std::array<KvFormat, 4> kRotated = {KvFormat::kQ8, KvFormat::kTurbo4, KvFormat::kTurbo3,
                                              KvFormat::kTurbo2};

std::string GroupName(KvGroup group) { return group == kFull ? "full" : "sliding"; }

std::string NameOf(KvFormat format) { return std::string(kvcache::KvFormatName(format)); }

KvChoice Choose(const Settings& settings, const std::string& name,
                const engine::ModelConfig& config, const absl::StatusOr<MemoryPlan>& plan) {
  Settings chosen = settings;
  chosen.kv_type = name;
  KvChoice choice = {.name = name, .chosen = KvFormatsOf(chosen)};
  choice.formats = KvText(choice.chosen);
  const absl::StatusOr<KvLayouts> layouts =
      KvLayoutsOf(config, choice.chosen, settings.block_tokens);
  choice.status = layouts.status();
  if (!layouts.ok()) return choice;
  choice.footprint = FootprintOf(config, *layouts, settings.block_tokens);
  if (!plan.ok()) return choice;
  const int64_t step_blocks =
      StepBlocks(choice.footprint, settings.max_step_rows, settings.max_slots);
  for (const int tokens : KvLengths(config)) {
    choice.sequences.push_back(
        SequencesThatFit(choice.footprint, plan->kv_bytes, step_blocks, tokens));
  }
  return choice;
}

}  // namespace

std::vector<int> KvLengths(const engine::ModelConfig& config) {
  std::vector<int> lengths;
  for (const int tokens : {8192, 32768, 131072}) {
    if (tokens <= config.max_positions) lengths.push_back(tokens);
  }
  if (lengths.empty()) lengths.push_back(config.max_positions);
  return lengths;
}

std::vector<KvChoice> KvChoices(const Settings& settings, const engine::ModelConfig& config,
                                const absl::StatusOr<MemoryPlan>& plan) {
  std::vector<KvChoice> choices;
  bool listed = settings.kv_type == "auto";
  for (const std::string_view name : KvTypeNames()) {
    choices.push_back(Choose(settings, std::string(name), config, plan));
    listed = listed || name == settings.kv_type;
  }
  if (!listed) choices.push_back(Choose(settings, settings.kv_type, config, plan));
  return choices;
}

std::string KvChoicesText(const std::vector<KvChoice>& choices, const std::vector<int>& lengths) {
  TextTable table = {.columns = {{"--kv-type"},
                                 {"protected"},
                                 {"full B/token", true},
                                 {"sliding B/token", true},
                                 {"window", true}}};
  for (const int tokens : lengths) table.columns.push_back({CountText(tokens), true});
  for (const KvChoice& choice : choices) {
    const int first = choice.chosen.protect_first;
    const int last = choice.chosen.protect_last;
    const std::string protection = first + last == 0 ? "" : absl::StrFormat("%d + %d", first, last);
    std::vector<std::string> row = {choice.name, choice.status.ok() ? protection : "all: refused"};
    if (choice.status.ok()) {
      const KvFootprint& kv = choice.footprint;
      row.push_back(CountText(static_cast<int64_t>(kv.bytes_per_token(kFull))));
      row.push_back(CountText(static_cast<int64_t>(kv.bytes_per_token(kSliding))));
      row.push_back(BytesText(static_cast<double>(kv.window_bytes())));
      for (const int64_t count : choice.sequences) row.push_back(CountText(count));
    }
    row.resize(table.columns.size(), "-");
    table.rows.push_back(std::move(row));
  }
  return MarkdownText(table);
}

std::string LogitNoiseText(const engine::ModelConfig& config, const std::vector<double>& sizes) {
  TextTable table = {.columns = {{"layer", true}, {"kind"}, {"logits", true}}};
  for (const KvFormat format : kRotated) table.columns.push_back({NameOf(format), true});
  for (size_t i = 0; i < sizes.size(); ++i) {
    std::vector<std::string> row = {std::to_string(i), GroupName(config.layers[i].group()),
                                    absl::StrFormat("%.1f", sizes[i])};
    for (const KvFormat format : kRotated) {
      row.push_back(absl::StrFormat("%.3f", sizes[i] * engine::KeyNoise(format)));
    }
    table.rows.push_back(std::move(row));
  }
  return MarkdownText(table);
}

nlohmann::ordered_json KvChoicesJson(const std::vector<KvChoice>& choices,
                                     const std::vector<int>& lengths) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const KvChoice& choice : choices) {
    nlohmann::ordered_json entry = {{"kv_type", choice.name}, {"formats", choice.formats}};
    if (!choice.status.ok()) {
      entry["error"] = choice.status.message();
      json.push_back(std::move(entry));
      continue;
    }
    for (const KvGroup group : {kSliding, kFull}) {
      entry[GroupName(group)] = {{"bytes_per_token", choice.footprint.bytes_per_token(group)},
                                 {"block_bytes", choice.footprint.block_bytes[group]}};
    }
    entry["window_bytes"] = choice.footprint.window_bytes();
    entry["sequences"] = nlohmann::ordered_json::array();
    for (size_t i = 0; i < choice.sequences.size(); ++i) {
      entry["sequences"].push_back({{"tokens", lengths[i]}, {"count", choice.sequences[i]}});
    }
    json.push_back(std::move(entry));
  }
  return json;
}

nlohmann::ordered_json LogitNoiseJson(const std::vector<double>& sizes) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (size_t i = 0; i < sizes.size(); ++i) {
    nlohmann::ordered_json entry = {{"layer", i}, {"logits", sizes[i]}};
    for (const KvFormat format : kRotated) {
      entry[NameOf(format)] = sizes[i] * engine::KeyNoise(format);
    }
    json.push_back(std::move(entry));
  }
  return json;
}

nlohmann::ordered_json KvGroupsJson(const MemoryPlan& plan) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const KvGroup group : {kSliding, kFull}) {
    if (plan.num_blocks[group] == 0) continue;
    json.push_back({{"group", GroupName(group)},
                    {"bytes_per_token", plan.kv.bytes_per_token(group)},
                    {"block_bytes", plan.kv.block_bytes[group]},
                    {"blocks", plan.num_blocks[group]},
                    {"bytes", plan.num_blocks[group] * plan.kv.block_bytes[group]}});
  }
  return json;
}

}  // namespace tandem::server
