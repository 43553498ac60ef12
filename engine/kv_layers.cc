#include "engine/kv_layers.h"

namespace tandem::engine {

std::vector<kvcache::LayerKv> KvLayers(const ModelConfig& config, KvGroup group,
                                       kernels::KvFormat k_format, kernels::KvFormat v_format) {
  std::vector<kvcache::LayerKv> layers;
  for (const int i : config.KvOwners(group)) {
    layers.push_back(
        {config.layers[i].num_kv_heads, config.layers[i].head_dim, k_format, v_format});
  }
  return layers;
}

}  // namespace tandem::engine
