// The loops around a register tile, the same at every instruction-set level.
//
// An instruction-set file defines, in its anonymous namespace,
//
//   struct Tile {
//     static constexpr int kMaxRows;                   // rows of one panel at most
//     static constexpr size_t kPanelBytes;             // of one row's unit in a panel
//     static constexpr size_t kWeightBytes;            // of one tile's unit
//     static constexpr int Tiles(int rows);            // tiles side by side: 1 or 2
//     template <int R, int N>
//     static void Run(const TileArgs& args);           // R rows by N tiles over some units
//     static void Finish(const FinishArgs& args);      // from sums to y
//   };
//
// and uses Product<Tile>, which that namespace makes its own.
//
// Order     k blocks, in them row blocks, in them tiles: weights come from memory once and from L2
//           for every further row block; a panel stays in L1 over the task's tiles. Sums wait in
//           `partial` between k blocks as the f32 they are: nothing is rounded by that.
// Prefetch  One row block: kAheadBytes ahead of the tile's own lines, at their end from the tiles
//           that follow. Several: the first few row blocks share out the lines of the whole next
//           k block or task, so that memory works while registers do.
#pragma once

#include "kernels/cpu/linear_kernel.h"

namespace tandem::kernels {

// Of a tile in one k block when there are several row blocks: 4 tiles * 48 KiB = 192 KiB of L2, and
// as much for what is prefetched.
constexpr size_t kMaxBlockBytes = 48 << 10;

// Of each tile, between a prefetch and its use.
constexpr size_t kAheadBytes = 4096;

struct TileArgs {
  const std::byte* panel;    // at the first unit
  const std::byte* weights;  // first tile, at the first unit
  size_t tile_bytes;         // from one tile to the next, also of the lines to prefetch
  const F16* scales;         // of `weights`, tile_scales from one tile to the next
  size_t tile_scales;
  int units;
  // Prefetched with unit u: the lines that begin in [0, ahead_step) behind ahead + u * ahead_step
  // of each tile; from unit `turn` on, lines from `turned` instead.
  const std::byte* ahead;
  size_t ahead_step;
  int turn;
  const std::byte* turned;
  bool resume;     // continue the sums in `partial`; otherwise start from 0
  float* partial;  // [R][kMaxTaskTiles][16], in and out, N of the tiles
};

struct FinishArgs {
  const ProductTask& task;
  RowBlock rows;         // of the product
  const float* partial;  // [rows.count][kMaxTaskTiles][16]
};

template <typename Tile, int R = Tile::kMaxRows>
static void RunTile(int rows, int tiles, const TileArgs& args) {
  if (rows == R) {
    if constexpr (Tile::Tiles(R) == 2) {
      if (tiles == 2) return Tile::template Run<R, 2>(args);
    }
    return Tile::template Run<R, 1>(args);
  }
  if constexpr (R > 1) RunTile<Tile, R - 1>(rows, tiles, args);
}

template <typename Tile>
static void Product(const ProductTask& task) {
  constexpr int kMaxBlockUnits = kMaxBlockBytes / Tile::kWeightBytes;
  constexpr int kAheadUnits = kAheadBytes / Tile::kWeightBytes;
  const size_t tile_bytes = task.units * Tile::kWeightBytes;
  const size_t tile_scales = size_t{kUnitScales} * task.units;
  const int task_row = BlockRows(task.rows, task.blocks, task.block_begin).begin;
  const int num_blocks = task.block_end - task.block_begin;
  const int k_blocks =
      num_blocks == 1 || task.units == 0 ? 1 : (task.units + kMaxBlockUnits - 1) / kMaxBlockUnits;
  // Row blocks that share the prefetching of what comes next, each every `sharers`-th line.
  const int sharers = num_blocks >= 8 ? 8 : num_blocks >= 4 ? 4 : num_blocks;

  for (int k = 0; k < k_blocks; ++k) {
    const int first = static_cast<int>(int64_t{task.units} * k / k_blocks);
    const int end = static_cast<int>(int64_t{task.units} * (k + 1) / k_blocks);
    const int units = end - first;
    const size_t bytes = units * Tile::kWeightBytes;  // of a tile
    const std::byte* weights = task.weights + first * Tile::kWeightBytes;
    const std::byte* next = k + 1 < k_blocks ? weights + bytes : task.next_weights;
    for (int b = 0; b < num_blocks; ++b) {
      const RowBlock block = BlockRows(task.rows, task.blocks, task.block_begin + b);
      const size_t panel_unit =
          static_cast<size_t>(block.begin) * task.units + static_cast<size_t>(block.count) * first;
      float* partial = task.partial + (block.begin - task_row) * kPartialRow;
      for (int tile = 0, tiles = 0; tile < task.tiles; tile += tiles) {
        tiles = Tile::Tiles(block.count);
        while (tiles > task.tiles - tile) tiles /= 2;
        const std::byte* w = weights + tile * tile_bytes;
        TileArgs args = {.panel = task.panels + panel_unit * Tile::kPanelBytes,
                         .weights = w,
                         .tile_bytes = tile_bytes,
                         .scales = nullptr,
                         .tile_scales = tile_scales,
                         .units = units,
                         .ahead = w,
                         .ahead_step = 0,
                         .turn = units,
                         .turned = w,
                         .resume = k > 0,
                         .partial = partial + tile * kTileOutputs};
        if (task.weight_scales != nullptr) {
          args.scales = task.weight_scales + tile * tile_scales + size_t{kUnitScales} * first;
        }
        if (num_blocks == 1) {
          args.ahead = w + kAheadBytes;
          args.ahead_step = Tile::kWeightBytes;
          args.turn = units > kAheadUnits ? units - kAheadUnits : 0;
          args.turned = tile + tiles < task.tiles ? w + tiles * tile_bytes : next;
        } else if (b < sharers) {
          args.ahead = next + tile * tile_bytes + bytes / sharers * b;
          args.ahead_step = Tile::kWeightBytes / sharers;
        }
        RunTile<Tile>(block.count, tiles, args);
      }
      if (k + 1 == k_blocks) Tile::Finish({.task = task, .rows = block, .partial = partial});
    }
  }
}

}  // namespace tandem::kernels
