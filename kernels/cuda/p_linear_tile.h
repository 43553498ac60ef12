// One block's part of Y = X W^T for many rows: sums in registers, in the canonical order.
//
//   y = (((0 + d_0) + d_1) + d_2) ..., d_q the chain of two matrix instructions over the 16 k from
//   32q and the 16 k from 32q + 16 that starts from 0; k at and behind `in` counts as 0
//
// Order     a function of `in` alone, and rows are always the instruction's 16-row operand: a
//           value's bits are the same in every tile shape, whatever rows and outputs share the
//           tile. Sums of groups are rounded to nearest, which the device's own accumulation over
//           all k would not do.
// Shared    a ring of kStages groups of 32 k. A group is [row or output][4 chunks of 8 k]; chunk c
//           of row r lies at c ^ (r/2 % 4), so that eight rows of a chunk are in different banks.
// Not here  what becomes of the sums (p_linear.cu).
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

constexpr int kPromptGroup = 32;  // k
constexpr int kPromptChunk = 8;   // values of one copy
constexpr int kPromptChunks = kPromptGroup / kPromptChunk;

struct PromptOperands {
  const bf16* x = nullptr;  // [rows, x_stride], `in` values used; 16-byte aligned
  int64_t x_stride = 0;     // a multiple of 8
  const bf16* w = nullptr;  // [out, in], 16-byte aligned
  int rows = 0;
  int in = 0;  // a multiple of 8
  int out = 0;
};

// A block makes kOutputs_ outputs of kRows_ rows; warps stand [kRowWarps][kOutputWarps].
template <int kRows_, int kOutputs_>
struct PromptTile {
  static constexpr int kRows = kRows_;
  static constexpr int kOutputs = kOutputs_;
  static constexpr int kRowWarps = kRows == 16 ? 1 : 2;
  static constexpr int kOutputWarps = 2;
  static constexpr int kThreads = kWarp * kRowWarps * kOutputWarps;
  // Of one warp: 16 rows, 8 outputs each.
  static constexpr int kRowTiles = kRows / kRowWarps / 16;
  static constexpr int kOutputTiles = kOutputs / kOutputWarps / 8;
  // 48 KiB for the largest tile: what a block may have without asking.
  static constexpr int kStages = kRows == 128 ? 3 : 4;
  // Per multiprocessor: what registers and shared memory leave room for.
  static constexpr int kBlocks = kRows == 128 ? 2 : 4;
  static constexpr int kStageValues = (kRows + kOutputs) * kPromptGroup;
  static constexpr int kSharedBytes = kStages * kStageValues * static_cast<int>(sizeof(bf16));
};

template <typename Tile>
using PromptSums = float[Tile::kRowTiles][Tile::kOutputTiles][4];

struct PromptPosition {
  int first_row;
  int first_output;
};

// Blocks run through 16 blocks of rows before they come to the next outputs: those that run at the
// same time share both operands in L2.
template <typename Tile>
K_DEVICE PromptPosition PositionOfPromptBlock(const PromptOperands& a) {
  constexpr int kGroup = 16;
  const int block = static_cast<int>(blockIdx.x);
  const int row_blocks = (a.rows + Tile::kRows - 1) / Tile::kRows;
  const int output_blocks = (a.out + Tile::kOutputs - 1) / Tile::kOutputs;
  const int first = block / (kGroup * output_blocks) * kGroup;
  const int height = row_blocks - first < kGroup ? row_blocks - first : kGroup;
  const int in_group = block - first * output_blocks;
  return {(first + in_group % height) * Tile::kRows, in_group / height * Tile::kOutputs};
}

inline int PromptBlocks(const PromptOperands& a, int rows, int outputs) {
  return (a.rows + rows - 1) / rows * ((a.out + outputs - 1) / outputs);
}

// What a thread copies of a group: the same chunk of every kRowsPerPass-th row and output. Rows
// that do not lie one behind the other take a copier of their own (experts_prompt.cu).
template <typename Tile>
struct PromptCopier {
  static constexpr int kRowsPerPass = Tile::kThreads / kPromptChunks;
  static_assert(Tile::kRows % kRowsPerPass == 0 && Tile::kOutputs % kRowsPerPass == 0);
  static_assert(kRowsPerPass % 8 == 0);  // the place of a chunk repeats

  K_DEVICE PromptCopier(const PromptOperands& a, PromptPosition at) {
    const int row = static_cast<int>(threadIdx.x) / kPromptChunks;
    const int chunk = static_cast<int>(threadIdx.x) % kPromptChunks;
    x = a.x + (at.first_row + row) * a.x_stride + chunk * kPromptChunk;
    w = a.w + int64_t{at.first_output + row} * a.in + chunk * kPromptChunk;
    x_step = kRowsPerPass * a.x_stride;
    w_step = kRowsPerPass * a.in;
    rows_left = a.rows - at.first_row - row;
    outputs_left = a.out - at.first_output - row;
    values_left = a.in - chunk * kPromptChunk;
    to = row * kPromptGroup + (chunk ^ (row / 2 % kPromptChunks)) * kPromptChunk;
  }

  // Starts the copy of the group that begins at k.
  K_DEVICE void Start(int k, bf16* stage) const {
    const bool inside = k < values_left;
    StartRows(k, inside, stage);
    StartOutputs(k, inside, stage + Tile::kRows * kPromptGroup);
  }

  K_DEVICE void StartRows(int k, bool inside, bf16* stage) const {
    K_UNROLL
    for (int pass = 0; pass < Tile::kRows / kRowsPerPass; ++pass) {
      cp_async_16(stage + to + pass * kRowsPerPass * kPromptGroup, x + pass * x_step + k,
                  inside && pass * kRowsPerPass < rows_left);
    }
  }

  K_DEVICE void StartOutputs(int k, bool inside, bf16* stage) const {
    K_UNROLL
    for (int pass = 0; pass < Tile::kOutputs / kRowsPerPass; ++pass) {
      cp_async_16(stage + to + pass * kRowsPerPass * kPromptGroup, w + pass * w_step + k,
                  inside && pass * kRowsPerPass < outputs_left);
    }
  }

  const bf16* x;
  const bf16* w;
  int64_t x_step;
  int64_t w_step;
  int rows_left;
  int outputs_left;
  int values_left;
  int to;
};

// sum += X W^T of one group; x and w are its rows and outputs of this warp.
template <typename Tile>
K_DEVICE void AddPromptGroup(const bf16* x, const bf16* w, PromptSums<Tile>& sum) {
  const int lane = lane_id();
  const int turn = lane / 2 % kPromptChunks;  // of row lane % 8
  const bf16* const x_row = x + lane % 16 * kPromptGroup;
  uint32_t rows[Tile::kRowTiles][2][4];
  K_UNROLL
  for (int i = 0; i < Tile::kRowTiles; ++i) {
    K_UNROLL
    for (int half = 0; half < 2; ++half) {
      ldsm_x4(rows[i][half],
              x_row + 16 * i * kPromptGroup + ((2 * half + lane / 16) ^ turn) * kPromptChunk);
    }
  }
  const bf16* const w_row = w + lane % 8 * kPromptGroup + ((lane / 8) ^ turn) * kPromptChunk;
  K_UNROLL
  for (int j = 0; j < Tile::kOutputTiles; ++j) {
    uint32_t outputs[4];
    ldsm_x4(outputs, w_row + 8 * j * kPromptGroup);
    const uint32_t first[2] = {outputs[0], outputs[1]};
    const uint32_t second[2] = {outputs[2], outputs[3]};
    float dot[Tile::kRowTiles][4] = {};
    K_UNROLL
    for (int i = 0; i < Tile::kRowTiles; ++i) mma_bf16_16816(dot[i], rows[i][0], first);
    K_UNROLL
    for (int i = 0; i < Tile::kRowTiles; ++i) mma_bf16_16816(dot[i], rows[i][1], second);
    K_UNROLL
    for (int i = 0; i < Tile::kRowTiles; ++i) {
      K_UNROLL
      for (int e = 0; e < 4; ++e) sum[i][j][e] = add_rn(sum[i][j][e], dot[i][e]);
    }
  }
}

// First row and output of this warp's part of the tile.
template <typename Tile>
K_DEVICE PromptPosition PositionInPromptTile() {
  return {warp_id() / Tile::kOutputWarps * Tile::kRowTiles * 16,
          warp_id() % Tile::kOutputWarps * Tile::kOutputTiles * 8};
}

// sum[i][j][e] is the value of row 16i + lane/4 + 8*(e/2) and output 8j + 2*(lane%4) + e%2 of this
// warp's part. `shared` has Tile::kSharedBytes.
template <typename Tile, typename Copier>
K_DEVICE void SumPromptGroups(const Copier& copier, int in, bf16* shared, PromptSums<Tile>& sum) {
  const int groups = (in + kPromptGroup - 1) / kPromptGroup;
  K_UNROLL
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) {
    if (stage < groups) copier.Start(stage * kPromptGroup, shared + stage * Tile::kStageValues);
    cp_commit();
  }
  const PromptPosition part = PositionInPromptTile<Tile>();
  const int x_part = part.first_row * kPromptGroup;
  const int w_part = (Tile::kRows + part.first_output) * kPromptGroup;
  int stage = 0;
  for (int group = 0; group < groups; ++group) {
    // Everybody's copies of this group are there, and nobody reads the stage before it any more.
    cp_wait<Tile::kStages - 2>();
    __syncthreads();
    const int next = group + Tile::kStages - 1;
    const int free_stage = stage == 0 ? Tile::kStages - 1 : stage - 1;
    if (next < groups) {
      copier.Start(next * kPromptGroup, shared + free_stage * Tile::kStageValues);
    }
    cp_commit();  // empty at the end, for the count of groups to hold
    const bf16* const here = shared + stage * Tile::kStageValues;
    AddPromptGroup<Tile>(here + x_part, here + w_part, sum);
    stage = stage == Tile::kStages - 1 ? 0 : stage + 1;
  }
}

template <typename Tile>
K_DEVICE void SumPromptGroups(const PromptOperands& a, PromptPosition at, bf16* shared,
                              PromptSums<Tile>& sum) {
  SumPromptGroups<Tile>(PromptCopier<Tile>(a, at), a.in, shared, sum);
}

}  // namespace tandem::kernels::K_WORLD
