#include "engine/assistant_weights.h"

#include "absl/strings/str_cat.h"

namespace tandem::engine {

using kernels::WeightFormat;

size_t LayOutAssistantWeights(const AssistantConfig& config, std::byte* base,
                              AssistantWeights& weights, std::vector<WeightItem>& items,
                              WeightFormat format) {
  weights = {};
  items.clear();
  WeightLayout layout(base, items);
  const int hidden = config.hidden;
  const int backbone = config.backbone_hidden;
  weights.pre = layout.Matrix(format, 2 * backbone, {{"pre_projection.weight", hidden}});
  for (int i = 0; i < config.num_layers(); ++i) {
    // The donor's index is the target's and may equal i.
    weights.layers.push_back(LayOutLayer(layout, absl::StrCat("model.layers.", i, "."), hidden,
                                         config.layers[i], /*owns_kv=*/false, format));
  }
  weights.final_norm = layout.Vector("model.norm.weight", hidden);
  weights.post = layout.Matrix(format, hidden, {{"post_projection.weight", backbone}});
  if (config.clustered) {
    weights.centroids = layout.Matrix(WeightFormat::kBf16, hidden,
                                      {{"masked_embedding.centroids.weight", config.num_clusters}});
    weights.cluster_ids = layout.TokenIds("masked_embedding.token_ordering", config.vocab);
    weights.first_cluster =
        layout.Clusters("model.embed_tokens.weight", config.vocab, hidden, config.cluster_rows());
    weights.cluster_elements = kernels::PackedElements(config.cluster_rows(), hidden);
  } else {
    weights.head = layout.Matrix(SensitiveFormat(format), hidden,
                                 {{"model.embed_tokens.weight", config.vocab}});
  }
  return layout.used();
}

size_t AssistantWeightBytes(const AssistantConfig& config, WeightFormat format) {
  AssistantWeights weights;
  std::vector<WeightItem> items;
  return LayOutAssistantWeights(config, nullptr, weights, items, format);
}

}  // namespace tandem::engine
