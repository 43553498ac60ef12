// Attention of the CPU backend at every instruction-set level, and how it is spread over a team.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/ops.h"

namespace tandem::kernels {

// Sets attention and supports.
void FillAttentionOps(CpuIsa isa, Ops& ops);

// Packed rows [packed_begin, packed_begin + packed_rows) of one segment and KV head: packed row R
// is row R / g of the segment and query head R % g of the KV head's g. They read K and V together.
struct AttentionUnit {
  int segment = 0;
  int kv_head = 0;
  int packed_begin = 0;
  int packed_rows = 0;
  int chunk_begin = 0;  // chunks of positions that some row sees lie in [chunk_begin, chunk_end)
  int chunk_end = 0;
};

// Who does what. The result's bits do not depend on it.
struct AttentionPlan {
  std::vector<AttentionUnit> whole;  // one thread walks all chunks of the unit
  std::vector<AttentionUnit> split;  // chunks go to any thread and are folded afterwards
  bool small = false;                // not worth waking the team
};

// Splits the units that would keep one of `threads` busy for more than a quarter of its share.
AttentionPlan PlanAttention(const AttentionArgs& args, int threads);

}  // namespace tandem::kernels
