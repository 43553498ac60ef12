// The rows of a forward on the device: what the engine says of them, and how their attention is
// cut.
//
// All arrays of one forward lie in one piece of device memory and go there in one copy. Places in
// it follow from capacities that only grow, so that recorded launches find later rows where they
// found the first ones.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/host_ring.h"
#include "kernels/ops.h"

namespace tandem::kernels::K_WORLD {

// How a step's attention may be cut on this device.
struct AttentionLimits {
  std::array<bool, 2> super_chunks = {true,
                                      true};  // by m_tiles - 1: whether a block has the memory
  int multiprocessors = 1;
  int64_t max_slots = 0;  // partial results that there is room for
};

struct StagedAttention {
  AttentionGrain grain;
  int chunk_tokens = 0;
  int num_waves = 0;
  const AttentionWave* waves = nullptr;
  const AttentionItem* items = nullptr;
  const AttentionPart* parts = nullptr;
  const int32_t* part_of_row = nullptr;
  const VisibleInterval* visible = nullptr;
  const int32_t* block_tables = nullptr;
  int64_t table_stride = 0;
};

class RowStage {
 public:
  // Queues the copy. Internal when a row's attention does not fit `limits`, which the memory for
  // partial results has to be made larger for.
  absl::Status Stage(const RowsArgs& args, const AttentionLimits& limits, const Device& device,
                     HostRing* ring, DeviceStream* stream);

  // Of the rows staged last.
  const RowsArgs& args() const { return args_; }  // its spans are the caller's
  int rows() const { return rows_; }              // with those that the device is padded with
  // Changes when places in device memory have changed.
  int generation() const { return generation_; }
  const int32_t* ids() const { return ids_; }
  const int32_t* positions() const { return positions_; }
  const int32_t* cells(int group) const { return cells_[group]; }
  const StagedAttention& attention(int group) const { return attention_[group]; }

 private:
  struct Capacity {
    size_t rows = 0;
    std::array<size_t, kNumStagedGroups> waves = {}, parts = {}, items = {}, table = {};
    bool operator==(const Capacity&) const = default;
  };
  struct Arrays;  // places of all of them

  size_t LayOut(std::byte* base, Arrays* arrays) const;
  absl::Status Plan(const RowsArgs& args, const AttentionLimits& limits);
  bool Grow(const RowsArgs& args);

  RowsArgs args_;
  int rows_ = 0;
  int generation_ = 0;
  const int32_t* ids_ = nullptr;
  const int32_t* positions_ = nullptr;
  std::array<const int32_t*, kNumStagedGroups> cells_ = {};
  std::array<StagedAttention, kNumStagedGroups> attention_;

  Capacity capacity_;
  DeviceMemory memory_;
  std::array<AttentionPlan, kNumStagedGroups> plans_;
  std::array<int64_t, kNumStagedGroups> strides_ = {};
  std::vector<int32_t> cu_rows_;
  std::array<std::vector<VisibleInterval>, kNumStagedGroups> visible_;
};

}  // namespace tandem::kernels::K_WORLD
