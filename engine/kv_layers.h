// What each KV group of a model stores: its layers with KV of their own, in the order of
// ModelConfig::KvOwners, and their formats.
//
// Not here  where the rows lie (kvcache/layout.h), what formats there are (kvcache/kv_formats.h),
// the layers that read another layer's KV.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "engine/model_config.h"
#include "kernels/ops.h"
#include "kernels/types.h"
#include "kvcache/kv_formats.h"
#include "kvcache/layout.h"

namespace tandem::engine {

// Every layer of the group in the same pair of formats.
std::vector<kvcache::LayerKv> KvLayers(const ModelConfig& config, KvGroup group,
                                       kernels::KvFormat k_format, kernels::KvFormat v_format);

// The formats that each layer of the model reads, [layers]: those of its group, but for protected
// layers. These are counted over both groups, in model order; a layer that shares KV is not counted
// and reads its owner's.
//   errors  those of kvcache::LayerFormats, such as protection that leaves no layer
absl::StatusOr<std::vector<kvcache::KvPair>> KvPairs(const ModelConfig& config,
                                                     const kvcache::KvFormats& formats);

// The group's layers in these formats. Empty when the model has none.
//   errors  those of KvPairs
absl::StatusOr<std::vector<kvcache::LayerKv>> KvLayers(const ModelConfig& config, KvGroup group,
                                                       const kvcache::KvFormats& formats);

// Whether the backend has attention for every layer in these formats.
//   errors  kUnimplemented with the layer, its head size and formats; those of KvPairs
absl::Status CheckKvKernels(const ModelConfig& config, const kvcache::KvFormats& formats,
                            const kernels::Ops& ops);

}  // namespace tandem::engine
