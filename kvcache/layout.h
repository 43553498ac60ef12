// Where the KV rows of one group lie inside one of its blocks.
//
//   address(block, layer, head) = pool + block*block_bytes + layer_offset[layer]
//                                 + head*HeadBlockBytes(layers[layer], block_tokens)
//
// A block holds `block_tokens` consecutive tokens of every layer and KV head of the group. Per
// layer and head it has one head-block: K codes, V codes, then the scale planes of formats that
// have one (kernels::KvView says how rows lie in them); head-blocks are 128-byte aligned, a block
// is a multiple of 256 bytes (turboquant 2.2).
//
// Not here  the bytes (block_store.h); which sequence holds which block (block_pool.h).
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/types.h"

namespace tandem::kvcache {

// What one layer with KV of its own stores for one token. Layers that share another layer's KV, and
// the drafter's, have no LayerKv: they read through their donor's view.
struct LayerKv {
  int num_kv_heads = 0;
  int head_dim = 0;
  kernels::KvFormat k = kernels::KvFormat::kBf16;
  kernels::KvFormat v = kernels::KvFormat::kBf16;
};

struct GroupLayout {
  int block_tokens = 0;              // 16, 32 or 64
  std::vector<LayerKv> layers;       // by index in the group
  std::vector<size_t> layer_offset;  // [layers] bytes from the start of a block
  size_t block_bytes = 0;
};

// Bytes of the scale of one row; 0 for formats without one.
constexpr size_t KvScaleBytes(kernels::KvFormat format) {
  return kernels::KvHasScale(format) ? sizeof(kernels::F16) : 0;
}

// Bytes from a head-block's start to its V codes, and to its scale planes; size of these planes.
size_t HeadBlockVOffset(const LayerKv& layer, int block_tokens);
size_t HeadBlockScaleOffset(const LayerKv& layer, int block_tokens);
size_t HeadBlockScaleBytes(const LayerKv& layer, int block_tokens);
// Size of a head-block, a multiple of 128.
size_t HeadBlockBytes(const LayerKv& layer, int block_tokens);

// Bytes that one token takes in the group: codes and scales of all layers and heads, without the
// padding of blocks (turboquant 6.5).
size_t TokenBytes(std::span<const LayerKv> layers);

// Lays out one group.
//   group   what errors call it
//   errors  kInvalidArgument for a block size other than 16, 32 or 64, for no layer, for a head
//           count outside 1..1024, for a head size that is not a multiple of 16 in 16..1024 or, in
//           a format with a scale, not a power of two in 64..512
absl::StatusOr<GroupLayout> MakeGroupLayout(int block_tokens, std::vector<LayerKv> layers,
                                            std::string_view group = "KV group");

}  // namespace tandem::kvcache
