// What a checkpoint's config.json and generation_config.json say, and the per-layer descriptor that
// everything else reads shapes from.
//
// Source    gemma4.md 1.2 to 1.4. Unknown or contradictory values are errors that name file and
// key. Not here  tensors (checkpoint.h), tokenizer (server/text).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/step.h"

namespace tandem::engine {

// The only source of shapes for a layer: nothing reads a model-level head size.
struct LayerDesc {
  bool full = false;  // attends to the whole sequence; otherwise within `window`
  int head_dim = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int window = 0;          // visible positions including the row's own; 0 for full layers
  int kv_owner = 0;        // the layer whose K/V this one reads; its own index for owners
  int kv_index = 0;        // place of kv_owner among the owners of its KV group
  bool has_v_proj = true;  // false: V is made from the K projection
  int mlp_width = 0;
  bool moe = false;

  KvGroup group() const { return full ? kFull : kSliding; }
};

struct RopeParams {
  float theta = 10000.0f;
  float partial_rotary_factor = 1.0f;  // share of the pairs that turn
  float factor = 1.0f;                 // divides every frequency
};

// generation_config.json; what is absent there stays neutral.
struct GenerationDefaults {
  float temperature = 1.0f;
  int top_k = 0;
  float top_p = 1.0f;
  std::vector<int32_t> eos_ids;
  std::vector<int32_t> suppressed_ids;  // never emitted
};

struct ModelConfig {
  std::string model_type;  // "gemma4" or "gemma4_unified"
  int hidden = 0;
  int vocab = 0;
  std::vector<LayerDesc> layers;
  int first_shared = 0;  // layers from here on share KV; layers.size() when none does
  int sliding_window = 0;
  int max_positions = 0;
  float rms_eps = 1e-6f;
  float logit_softcap = 0.0f;  // 0: none
  bool tied_head = true;
  int ple_width = 0;  // 0: no per-layer embeddings
  int ple_vocab = 0;
  int experts = 0;  // 0: dense
  int experts_per_token = 0;
  int expert_width = 0;
  std::array<RopeParams, kNumKvGroups> rope;  // by KvGroup
  int bos_id = 2;
  int pad_id = 0;
  std::vector<int32_t> media_ids;  // image, audio and video tokens: not accepted from clients
  GenerationDefaults generation;

  int num_layers() const { return static_cast<int>(layers.size()); }
  // Layers of a group that store KV, in layer order.
  std::vector<int> KvOwners(KvGroup group) const;
  // The frequencies of the rotating pairs, [live]; pairs beyond them have frequency 0.
  std::vector<float> InvFreq(KvGroup group) const;
};

// `generation_json` may be empty: the file is optional. The names are used in messages.
absl::StatusOr<ModelConfig> ParseModelConfig(std::string_view config_json,
                                             std::string_view generation_json,
                                             const std::string& config_name);

// Reads both files of a Hugging Face directory.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& directory);

// The published shapes by short name: e2b, e4b, 12b, 26b, 31b (gemma4.md 1.1).
absl::StatusOr<ModelConfig> PublishedShape(std::string_view name);

}  // namespace tandem::engine
