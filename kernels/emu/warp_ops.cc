// Exchanges and matrix instructions of a warp: the lanes meet, the last one computes for all.
//
// Source    PTX ISA 9.7.9 (shfl, vote) and 9.7.14.5 (fragments of mma.m16n8k16, ldmatrix,
// movmatrix).
#include <bit>
#include <cstring>

#include "kernels/emu/block_runner.h"
#include "kernels/types.h"

namespace tandem::kernels::emu {
namespace {

constexpr uint32_t kFullMask = ~0u;

// The records of a rendezvous as what they are; lanes outside the mask have none worth reading.
template <typename Record>
Record& At(void* const records[kWarpLanes], int lane) {
  return *static_cast<Record*>(records[lane]);
}

uint16_t Half(uint32_t pair, int which) { return static_cast<uint16_t>(pair >> 16 * which); }

struct ShuffleRecord {
  ShuffleKind kind;
  uint64_t value;
  int operand;
  int width;
  Site site;
  uint64_t result;
};

// The lane that `lane` reads: its own where up, down or xor would leave the group.
int ShuffleSource(const ShuffleRecord& r, int lane) {
  const int begin = lane & ~(r.width - 1);
  const int end = begin + r.width;
  int source = lane;
  switch (r.kind) {
    case ShuffleKind::kIndex:
      source = begin + (r.operand & (r.width - 1));
      break;
    case ShuffleKind::kUp:
      source = lane - r.operand < begin ? lane : lane - r.operand;
      break;
    case ShuffleKind::kDown:
      source = lane + r.operand >= end ? lane : lane + r.operand;
      break;
    case ShuffleKind::kXor:
      source = (lane ^ r.operand) >= end ? lane : lane ^ r.operand;
      break;
  }
  return source;
}

void CombineShuffle(void* const records[kWarpLanes], uint32_t mask) {
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    auto& record = At<ShuffleRecord>(records, lane);
    const int source = ShuffleSource(record, lane);
    if ((mask >> source & 1) == 0) FailAt(record.site, "a shuffle reads a lane outside its mask");
    record.result = At<ShuffleRecord>(records, source).value;
  }
}

struct VoteRecord {
  bool vote;
  uint32_t result;
};

void CombineVote(void* const records[kWarpLanes], uint32_t mask) {
  uint32_t ballot = 0;
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if ((mask >> lane & 1) != 0 && At<VoteRecord>(records, lane).vote) ballot |= 1u << lane;
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if ((mask >> lane & 1) != 0) At<VoteRecord>(records, lane).result = ballot;
  }
}

struct MmaRecord {
  float* acc;         // 4: row g + 8*(i/2), column 2t + i%2
  const uint32_t* a;  // 4 pairs: row g + 8*(i%2), columns 2t + 8*(i/2) + {0, 1}
  const uint32_t* b;  // 2 pairs: rows 2t + 8*i + {0, 1}, column g
};                    // with g = lane/4, t = lane%4

template <typename Float16>
void CombineMma(void* const records[kWarpLanes], uint32_t) {
  float a[16][16], b[16][8], sum[16][8] = {};
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const auto& record = At<MmaRecord>(records, lane);
    const int g = lane / 4, t = lane % 4;
    for (int which = 0; which < 2; ++which) {
      for (int i = 0; i < 4; ++i) {
        a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + which] =
            ToFloat(Float16{Half(record.a[i], which)});
      }
      for (int i = 0; i < 2; ++i) {
        b[2 * t + 8 * i + which][g] = ToFloat(Float16{Half(record.b[i], which)});
      }
    }
  }
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < 16; ++k) {
      for (int n = 0; n < 8; ++n) sum[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    float* acc = At<MmaRecord>(records, lane).acc;
    for (int i = 0; i < 4; ++i) acc[i] += sum[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

struct LoadRecord {
  int matrices;
  bool transposed;
  uint32_t* out;
  const void* row;
};

void CombineLoad(void* const records[kWarpLanes], uint32_t) {
  const int matrices = At<LoadRecord>(records, 0).matrices;
  const bool transposed = At<LoadRecord>(records, 0).transposed;
  for (int m = 0; m < matrices; ++m) {
    uint16_t tile[8][8];
    for (int row = 0; row < 8; ++row) {
      std::memcpy(tile[row], At<LoadRecord>(records, 8 * m + row).row, 16);
    }
    for (int lane = 0; lane < kWarpLanes; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const uint32_t low = transposed ? tile[2 * t][g] : tile[g][2 * t];
      const uint32_t high = transposed ? tile[2 * t + 1][g] : tile[g][2 * t + 1];
      At<LoadRecord>(records, lane).out[m] = low | high << 16;
    }
  }
}

void CombineTranspose(void* const records[kWarpLanes], uint32_t) {
  uint16_t tile[8][8];
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const uint32_t pair = At<uint32_t>(records, lane);
    for (int which = 0; which < 2; ++which) {
      tile[lane / 4][2 * (lane % 4) + which] = Half(pair, which);
    }
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    At<uint32_t>(records, lane) = uint32_t{tile[2 * t][g]} | uint32_t{tile[2 * t + 1][g]} << 16;
  }
}

}  // namespace

uint64_t Shuffle(ShuffleKind kind, uint32_t mask, uint64_t value, int operand, int width,
                 Site site) {
  if (width < 1 || width > kWarpLanes || !std::has_single_bit(static_cast<unsigned>(width))) {
    FailAt(site, "the width of a shuffle is a power of two up to 32");
  }
  ShuffleRecord record = {kind, value, operand, width, site, 0};
  constexpr const char* kNames[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",
                                    "__shfl_xor_sync"};
  BlockRunner::Current().Rendezvous(kNames[static_cast<int>(kind)], mask, site, &record,
                                    &CombineShuffle);
  return record.result;
}

uint32_t Ballot(uint32_t mask, bool vote, Site site) {
  VoteRecord record = {vote, 0};
  BlockRunner::Current().Rendezvous("a vote", mask, site, &record, &CombineVote);
  return record.result;
}

void Mma16816(OperandType type, float* acc, const uint32_t* a, const uint32_t* b, Site site) {
  MmaRecord record = {acc, a, b};
  BlockRunner::Current().Rendezvous(
      "mma", kFullMask, site, &record,
      type == OperandType::kBf16 ? &CombineMma<Bf16> : &CombineMma<F16>);
}

void LoadMatrices(int matrices, bool transposed, uint32_t* out, const void* row, Site site) {
  LoadRecord record = {matrices, transposed, out, row};
  BlockRunner& runner = BlockRunner::Current();
  const int lane = static_cast<int>(current_view->thread_idx.x) % kWarpLanes;
  if (lane < 8 * matrices) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
      FailAt(site, "a row address of ldmatrix is not a multiple of 16");
    }
    if (!runner.IsShared(row, 16)) FailAt(site, "ldmatrix reads outside shared memory");
  }
  runner.Rendezvous("ldmatrix", kFullMask, site, &record, &CombineLoad);
}

uint32_t TransposeMatrix(uint32_t values, Site site) {
  BlockRunner::Current().Rendezvous("movmatrix", kFullMask, site, &values, &CombineTranspose);
  return values;
}

}  // namespace tandem::kernels::emu
