#include "engine/kv_layers.h"

#include <string>

#include "absl/strings/str_format.h"

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

absl::StatusOr<std::vector<kvcache::KvPair>> KvPairs(const ModelConfig& config,
                                                     const kvcache::KvFormats& formats) {
  std::vector<int> groups;                         // of the owners, in model order
  std::vector<size_t> place(config.num_layers());  // of an owner among them
  for (int i = 0; i < config.num_layers(); ++i) {
    if (config.layers[i].kv_owner != i) continue;
    place[i] = groups.size();
    groups.push_back(config.layers[i].group());
  }
  const absl::StatusOr<std::vector<kvcache::KvPair>> of_owners =
      kvcache::LayerFormats(formats, groups);
  if (!of_owners.ok()) return of_owners.status();
  std::vector<kvcache::KvPair> pairs;
  for (const LayerDesc& layer : config.layers) pairs.push_back((*of_owners)[place[layer.kv_owner]]);
  return pairs;
}

absl::StatusOr<std::vector<kvcache::LayerKv>> KvLayers(const ModelConfig& config, KvGroup group,
                                                       const kvcache::KvFormats& formats) {
  const absl::StatusOr<std::vector<kvcache::KvPair>> pairs = KvPairs(config, formats);
  if (!pairs.ok()) return pairs.status();
  std::vector<kvcache::LayerKv> layers;
  for (const int i : config.KvOwners(group)) {
    layers.push_back(
        {config.layers[i].num_kv_heads, config.layers[i].head_dim, (*pairs)[i].k, (*pairs)[i].v});
  }
  return layers;
}

absl::Status CheckKvKernels(const ModelConfig& config, const kvcache::KvFormats& formats,
                            const kernels::Ops& ops) {
  const absl::StatusOr<std::vector<kvcache::KvPair>> pairs = KvPairs(config, formats);
  if (!pairs.ok()) return pairs.status();
  for (int i = 0; i < config.num_layers(); ++i) {
    const auto [k, v] = (*pairs)[i];
    const int head_dim = config.layers[i].head_dim;
    if (ops.supports({head_dim, k, v})) continue;
    return absl::UnimplementedError(absl::StrFormat(
        "layer %d has head size %d; %s has no attention for keys in %s and values in %s of that "
        "size; choose another --kv-type",
        i, head_dim, ops.name, std::string(kvcache::KvFormatName(k)),
        std::string(kvcache::KvFormatName(v))));
  }
  return absl::OkStatus();
}

}  // namespace tandem::engine
