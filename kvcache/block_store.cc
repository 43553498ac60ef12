#include "kvcache/block_store.h"

#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tandem::kvcache {

absl::StatusOr<BlockStore> BlockStore::Create(GroupLayout layout, int32_t num_blocks,
                                              const kernels::MemorySource& source) {
  if (num_blocks < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a KV pool of ", num_blocks, " blocks is empty; give it at least one"));
  }
  if (layout.block_bytes == 0 ||
      static_cast<size_t>(num_blocks) >
          static_cast<size_t>(std::numeric_limits<int64_t>::max()) / layout.block_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("a KV pool of ", num_blocks, " blocks of ",
                                                   layout.block_bytes,
                                                   " bytes does not fit the address space"));
  }
  const size_t bytes = num_blocks * layout.block_bytes;
  absl::StatusOr<kernels::Memory> memory = source.Allocate(bytes);
  if (!memory.ok()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the KV pool can not be had: ", std::string(memory.status().message()),
                     "; lower the KV memory"));
  }
  return BlockStore(std::move(layout), num_blocks, *std::move(memory));
}

BlockStore::BlockStore(GroupLayout layout, int32_t num_blocks, kernels::Memory memory)
    : layout_(std::move(layout)), num_blocks_(num_blocks), memory_(std::move(memory)) {}

kernels::KvView BlockStore::View(int layer) const {
  const LayerKv& kv = layout_.layers[layer];
  kernels::KvView view;
  view.base = memory_.data() + layout_.layer_offset[layer];
  view.block_stride = layout_.block_bytes;
  view.head_stride = HeadBlockBytes(kv, layout_.block_tokens);
  view.v_offset = HeadBlockVOffset(kv, layout_.block_tokens);
  view.k_scale_offset = HeadBlockScaleOffset(kv, layout_.block_tokens);
  view.v_scale_offset = view.k_scale_offset + layout_.block_tokens * KvScaleBytes(kv.k);
  view.log2_block_tokens = std::countr_zero(static_cast<unsigned>(layout_.block_tokens));
  view.k_format = kv.k;
  view.v_format = kv.v;
  return view;
}

void BlockStore::PrepareBlock(int32_t block) {
  for (size_t i = 0; i < layout_.layers.size(); ++i) {
    const LayerKv& kv = layout_.layers[i];
    const size_t scale_bytes = HeadBlockScaleBytes(kv, layout_.block_tokens);
    if (scale_bytes == 0) continue;
    const size_t head_bytes = HeadBlockBytes(kv, layout_.block_tokens);
    std::byte* head = this->block(block) + layout_.layer_offset[i] +
                      HeadBlockScaleOffset(kv, layout_.block_tokens);
    for (int h = 0; h < kv.num_kv_heads; ++h, head += head_bytes) {
      std::memset(head, 0, scale_bytes);
    }
  }
}

}  // namespace tandem::kvcache
