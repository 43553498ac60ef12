// What `tandem inspect` says about KV: what every --kv-type costs and how many sequences of which
// length fit then, and how far each format's keys move the logits of each layer.
//
// Not here  the bytes (kv_footprint.h), the prediction (engine/logit_noise.h).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "server/cli/kv_footprint.h"
#include "server/cli/memory_plan.h"
#include "server/config/settings.h"

namespace tandem::server {

// One --kv-type, with the other options as they are given.
struct KvChoice {
  std::string name;     // as --kv-type takes it
  std::string formats;  // KvText
  absl::Status status;  // why it can not be had; the rest is empty then
  kvcache::KvFormats chosen;
  KvFootprint footprint;
  std::vector<int64_t> sequences;  // that fit in the memory of `tandem serve`, by KvLengths
};

// Lengths of sequences that are counted: 8192, 32768 and 131072 as far as the model goes, else its
// longest.
std::vector<int> KvLengths(const engine::ModelConfig& config);

// Every format and preset, and --kv-type itself when it is neither.
//   plan  of what `tandem serve` would take; not OK: no sequences are counted
std::vector<KvChoice> KvChoices(const Settings& settings, const engine::ModelConfig& config,
                                const absl::StatusOr<MemoryPlan>& plan);

// Tables of at most 100 columns.
std::string KvChoicesText(const std::vector<KvChoice>& choices, const std::vector<int>& lengths);
//   sizes  engine::LogitSizes
std::string LogitNoiseText(const engine::ModelConfig& config, const std::vector<double>& sizes);

nlohmann::ordered_json KvChoicesJson(const std::vector<KvChoice>& choices,
                                     const std::vector<int>& lengths);
nlohmann::ordered_json LogitNoiseJson(const std::vector<double>& sizes);
// The groups' blocks as `tandem serve` would allocate them.
nlohmann::ordered_json KvGroupsJson(const MemoryPlan& plan);

}  // namespace tandem::server
