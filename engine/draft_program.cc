#include "engine/draft_program.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tandem::engine {

std::vector<DraftOp> MakeDraftProgram(const AssistantConfig& config) {
  using Kind = DraftOp::Kind;
  using Runs = DraftOp::Runs;
  std::vector<DraftOp> program;
  const auto add = [&](Kind kind, Runs runs, std::string name) {
    program.push_back({.kind = kind, .runs = runs, .name = std::move(name)});
  };

  add(Kind::kHandoffs, Runs::kPerChain, "handoffs");
  for (const KvGroup group : {kSliding, kFull}) {
    const auto reads = [group](const LayerDesc& layer) { return layer.group() == group; };
    if (std::none_of(config.layers.begin(), config.layers.end(), reads)) continue;
    add(Kind::kRope, Runs::kPerChain, group == kFull ? "rope.full" : "rope.sliding");
    program.back().group = group;
  }

  add(Kind::kEmbed, Runs::kPerStep, "embed");
  add(Kind::kPre, Runs::kPerStep, "pre");
  for (int i = 0; i < config.num_layers(); ++i) {
    const auto add_layer = [&](Kind kind, std::string_view name) {
      add(kind, Runs::kPerStep, absl::StrCat("layers.", i, ".", std::string(name)));
      program.back().layer = i;
    };
    add_layer(Kind::kInputNorm, "input_norm");
    add_layer(Kind::kQuery, "query");
    add_layer(Kind::kQueryPost, "query_post");
    add_layer(Kind::kAttention, "attention");
    add_layer(Kind::kOutput, "output");
    add_layer(Kind::kAttentionAdd, "attention_add");
    add_layer(Kind::kFfnNorm, "ffn_norm");
    add_layer(Kind::kGateUp, "gate_up");
    add_layer(Kind::kDown, "down");
    add_layer(Kind::kFfnAdd, "ffn_add");
  }
  add(Kind::kFinalNorm, Runs::kPerStep, "final_norm");

  if (config.clustered) {
    add(Kind::kCentroids, Runs::kPerChunk, "head.centroids");
    add(Kind::kChooseClusters, Runs::kPerChunk, "head.choose_clusters");
    add(Kind::kClusterLogits, Runs::kPerChunk, "head.cluster_logits");
  } else {
    add(Kind::kLogits, Runs::kPerChunk, "head.logits");
  }
  if (config.logit_softcap > 0) add(Kind::kSoftcap, Runs::kPerChunk, "head.softcap");
  add(Kind::kChooseToken, Runs::kPerChunk, "head.choose_token");
  add(Kind::kPost, Runs::kBetweenSteps, "post");
  return program;
}

}  // namespace tandem::engine
