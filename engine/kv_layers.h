// What each KV group of a model stores: its layers with KV of their own, in the order of
// ModelConfig::KvOwners.
//
// Not here  where the rows lie (kvcache/layout.h), the layers that read another layer's KV.
#pragma once

#include <vector>

#include "engine/model_config.h"
#include "kernels/types.h"
#include "kvcache/layout.h"

namespace tandem::engine {

// Every layer of the group in the same pair of formats.
std::vector<kvcache::LayerKv> KvLayers(const ModelConfig& config, KvGroup group,
                                       kernels::KvFormat k_format, kernels::KvFormat v_format);

}  // namespace tandem::engine
