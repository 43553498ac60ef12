// What the config.json and generation_config.json of an assistant (the MTP drafter) say, and how it
// fits a target.
//
// Source    mtp.md 1.2, 1.3, 1.6. gemma4_assistant and gemma4_unified_assistant are one
//           architecture. Unknown or contradictory values are errors that name file and key.
// Not here  tensors (assistant_weights.h, load_assistant.h), tokenizers (server/text).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/model_config.h"

namespace tandem::engine {

struct AssistantConfig {
  std::string model_type;   // "gemma4_assistant" or "gemma4_unified_assistant"
  int backbone_hidden = 0;  // of the target: width of the handoff rows, D
  int hidden = 0;           // d, never equal to D
  int vocab = 0;
  float rms_eps = 1e-6f;
  float logit_softcap = 0.0f;  // 0: none
  // Every layer reads a donor's K/V and owns none. kv_owner and kv_index name the donor, as layer
  // of the target and as its place among the owners of its group; -1 before FitToTarget.
  std::vector<LayerDesc> layers;
  std::array<RopeParams, kNumKvGroups> rope;  // by KvGroup
  bool clustered = false;                     // the head scores clusters first, mtp.md 1.8
  int num_clusters = 0;                       // divides vocab; 0 with a dense head, as the next
  int clusters_per_token = 0;                 // in 1..num_clusters
  int draft_tokens = 0;                       // num_assistant_tokens; 0: not given
  std::vector<int32_t> suppressed_ids;  // never to be proposed, ascending; FitToTarget adds those
                                        // that the target never emits

  int num_layers() const { return static_cast<int>(layers.size()); }
  int cluster_rows() const { return clustered ? vocab / num_clusters : 0; }
  // The frequencies of the rotating pairs, [live], as ModelConfig::InvFreq.
  std::vector<float> InvFreq(KvGroup group) const;
};

// `generation_json` may be empty: the file is optional. `name` is used in messages.
absl::StatusOr<AssistantConfig> ParseAssistantConfig(std::string_view config_json,
                                                     std::string_view generation_json,
                                                     const std::string& name);

// Reads both files of a Hugging Face directory.
absl::StatusOr<AssistantConfig> ReadAssistantConfig(const std::string& directory);

// The published shapes by the short name of their target: e2b, e4b, 12b, 26b, 31b (mtp.md 1.2).
absl::StatusOr<AssistantConfig> PublishedAssistantShape(std::string_view name);

// Finds every layer's donor: the last layer of its type among those of the target that write their
// own K/V (mtp.md 1.6), and checks what mtp.md 1.3 asks of the two together.
//   errors  FailedPrecondition naming every mismatch with both values; `assistant` is unchanged
absl::Status FitToTarget(const ModelConfig& target, AssistantConfig& assistant);

}  // namespace tandem::engine
