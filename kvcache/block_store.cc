#include "kvcache/block_store.h"

#include <sys/mman.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tandem::kvcache {

absl::StatusOr<BlockStore> BlockStore::Create(GroupLayout layout, int32_t num_blocks) {
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
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the system refused ", bytes, " bytes for the KV pool (", std::strerror(errno),
                     "); lower the KV memory"));
  }
  madvise(base, bytes, MADV_HUGEPAGE);  // a wish: without huge pages only speed is lost
  return BlockStore(std::move(layout), num_blocks, static_cast<std::byte*>(base));
}

BlockStore::BlockStore(GroupLayout layout, int32_t num_blocks, std::byte* base)
    : layout_(std::move(layout)), num_blocks_(num_blocks), base_(base) {}

BlockStore::BlockStore(BlockStore&& other) noexcept
    : layout_(std::move(other.layout_)),
      num_blocks_(std::exchange(other.num_blocks_, 0)),
      base_(std::exchange(other.base_, nullptr)) {}

BlockStore& BlockStore::operator=(BlockStore&& other) noexcept {
  std::swap(layout_, other.layout_);
  std::swap(num_blocks_, other.num_blocks_);
  std::swap(base_, other.base_);
  return *this;
}

BlockStore::~BlockStore() {
  if (base_ != nullptr) munmap(base_, bytes());
}

kernels::KvView BlockStore::View(int layer) const {
  const LayerKv& kv = layout_.layers[layer];
  kernels::KvView view;
  view.base = base_ + layout_.layer_offset[layer];
  view.block_stride = layout_.block_bytes;
  view.head_stride = HeadBlockBytes(kv, layout_.block_tokens);
  view.v_offset = HeadBlockVOffset(kv, layout_.block_tokens);
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
    std::byte* head = base_ + block * layout_.block_bytes + layout_.layer_offset[i] +
                      HeadBlockScaleOffset(kv, layout_.block_tokens);
    for (int h = 0; h < kv.num_kv_heads; ++h, head += head_bytes) {
      std::memset(head, 0, scale_bytes);
    }
  }
}

}  // namespace tandem::kvcache
