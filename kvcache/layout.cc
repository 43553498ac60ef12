#include "kvcache/layout.h"

#include <bit>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kvcache/kv_formats.h"

namespace tandem::kvcache {
namespace {

constexpr size_t kHeadBlockAlignment = 128;
constexpr size_t kBlockAlignment = 256;

constexpr size_t RoundUp(size_t bytes, size_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

// As far as the rotation goes (turboquant 1.2, 7.2).
bool CanRotate(int head_dim) {
  return head_dim >= 64 && head_dim <= 512 && std::has_single_bit(static_cast<unsigned>(head_dim));
}

}  // namespace

size_t HeadBlockVOffset(const LayerKv& layer, int block_tokens) {
  return block_tokens * kernels::KvRowBytes(layer.k, layer.head_dim);
}

size_t HeadBlockScaleOffset(const LayerKv& layer, int block_tokens) {
  return HeadBlockVOffset(layer, block_tokens) +
         block_tokens * kernels::KvRowBytes(layer.v, layer.head_dim);
}

size_t HeadBlockScaleBytes(const LayerKv& layer, int block_tokens) {
  return block_tokens * (KvScaleBytes(layer.k) + KvScaleBytes(layer.v));
}

size_t HeadBlockBytes(const LayerKv& layer, int block_tokens) {
  return RoundUp(
      HeadBlockScaleOffset(layer, block_tokens) + HeadBlockScaleBytes(layer, block_tokens),
      kHeadBlockAlignment);
}

size_t TokenBytes(std::span<const LayerKv> layers) {
  size_t bytes = 0;
  for (const LayerKv& layer : layers) {
    for (const kernels::KvFormat format : {layer.k, layer.v}) {
      bytes +=
          layer.num_kv_heads * (kernels::KvRowBytes(format, layer.head_dim) + KvScaleBytes(format));
    }
  }
  return bytes;
}

absl::StatusOr<GroupLayout> MakeGroupLayout(int block_tokens, std::vector<LayerKv> layers,
                                            std::string_view group) {
  if (block_tokens != 16 && block_tokens != 32 && block_tokens != 64) {
    return absl::InvalidArgumentError(
        absl::StrCat("a KV block of ", block_tokens, " tokens is not supported; use 16, 32 or 64"));
  }
  if (layers.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", std::string(group), " has no layer with KV of its own; it needs one"));
  }
  GroupLayout layout;
  layout.block_tokens = block_tokens;
  size_t offset = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerKv& layer = layers[i];
    const std::string name = absl::StrCat("layer ", i, " of the ", std::string(group));
    if (layer.num_kv_heads < 1 || layer.num_kv_heads > 1024) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " has ", layer.num_kv_heads, " KV heads; 1 to 1024 are supported"));
    }
    if (layer.head_dim < 16 || layer.head_dim > 1024 || layer.head_dim % 16 != 0) {
      return absl::InvalidArgumentError(absl::StrCat(name, " has a head size of ", layer.head_dim,
                                                     "; multiples of 16 up to 1024 are supported"));
    }
    for (const kernels::KvFormat format : {layer.k, layer.v}) {
      if (!kernels::KvHasScale(format) || CanRotate(layer.head_dim)) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          name, " has a head size of ", layer.head_dim, "; ", std::string(KvFormatName(format)),
          " needs a power of two from 64 to 512: use f32, bf16 or f16"));
    }
    layout.layer_offset.push_back(offset);
    offset += layer.num_kv_heads * HeadBlockBytes(layer, block_tokens);
  }
  layout.layers = std::move(layers);
  layout.block_bytes = RoundUp(offset, kBlockAlignment);
  return layout;
}

}  // namespace tandem::kvcache
