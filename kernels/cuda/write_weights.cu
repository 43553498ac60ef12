#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "kernels/cuda/w_codes_pack.h"
#include "kernels/cuda/w_linear_pack.h"
#include "kernels/cuda/write_weights.h"
#include "kernels/weight_codes.h"

namespace tandem::kernels::K_WORLD {
namespace {

// Rows of a tile that come from the host; the others of a tile are null.
struct TileRows {
  const std::byte* rows[kTileOutputs] = {};
};

// What the threads of the host share while they quantise some tiles.
struct Quantising {
  WeightFormat format;
  int in;
  const TileRows* tiles;
  std::byte* codes;  // [tiles]
  F16* scales;
  std::atomic<bool> fits = true;
};

void QuantiseTile(void* context, int tile) {
  Quantising& work = *static_cast<Quantising*>(context);
  std::vector<int8_t> codes(size_t{kWeightGroup} * WeightGroups(work.in));
  std::vector<F16> scales(WeightGroups(work.in));
  for (int lane = 0; lane < kTileOutputs; ++lane) {
    const std::byte* const row = work.tiles[tile].rows[lane];
    if (row == nullptr) continue;
    if (!EncodeWeightRow(work.format, row, work.in, codes.data(), scales.data())) {
      work.fits = false;
      return;
    }
    PackCodeRow(work.format, tile * kTileOutputs + lane, work.in, codes.data(), scales.data(),
                work.codes, work.scales);
  }
}

// Tiles from `first` on of a matrix. Rows that do not come from the host keep what the device has.
absl::StatusOr<bool> WriteTiles(const WeightWriter& writer, const std::vector<TileRows>& tiles,
                                int first, int in, const CodeTarget& packed) {
  const size_t tile_codes = PackedCodeBytes(packed.format, kTileOutputs, in);
  const size_t tile_scales = PackedCodeScales(kTileOutputs, in);
  const size_t tile_bytes = tile_codes + tile_scales * sizeof(F16);
  if (tile_bytes > writer.ring->half_bytes()) {
    return absl::InternalError("a tile of weights is larger than the memory that copies them");
  }
  const size_t most = writer.ring->half_bytes() / tile_bytes;
  for (size_t begin = 0; begin < tiles.size(); begin += most) {
    const size_t count = std::min(most, tiles.size() - begin);
    const absl::StatusOr<std::byte*> room = writer.ring->Take(count * tile_bytes, writer.stream);
    if (!room.ok()) return room.status();
    std::byte* const codes = *room;
    F16* const scales = reinterpret_cast<F16*>(codes + count * tile_codes);
    std::byte* const codes_there = packed.codes + (first + begin) * tile_codes;
    F16* const scales_there = packed.scales + (first + begin) * tile_scales;
    const auto partial = [](const TileRows& tile) {
      return std::find(std::begin(tile.rows), std::end(tile.rows), nullptr) != std::end(tile.rows);
    };
    if (std::any_of(tiles.begin() + begin, tiles.begin() + begin + count, partial)) {
      absl::Status read = writer.stream->CopyToHost(codes, codes_there, count * tile_codes);
      if (read.ok()) {
        read.Update(
            writer.stream->CopyToHost(scales, scales_there, count * tile_scales * sizeof(F16)));
      }
      if (read.ok()) read.Update(writer.stream->Synchronize());
      if (!read.ok()) return read;
    }
    Quantising work = {packed.format, in, tiles.data() + begin, codes, scales};
    writer.host->for_each(writer.host->backend, static_cast<int>(count), QuantiseTile, &work);
    if (!work.fits) return false;
    absl::Status written = writer.stream->CopyToDevice(codes_there, codes, count * tile_codes);
    if (written.ok()) {
      written.Update(
          writer.stream->CopyToDevice(scales_there, scales, count * tile_scales * sizeof(F16)));
    }
    if (!written.ok()) return written;
  }
  return true;
}

}  // namespace

absl::Status WriteRows(const WeightWriter& writer, const std::byte* rows, int out, int in,
                       int row_begin, Bf16* packed) {
  return writer.ring->Copy(packed + static_cast<int64_t>(row_begin) * in, rows,
                           static_cast<size_t>(out) * in * sizeof(Bf16), writer.stream);
}

absl::Status WriteGateUp(const WeightWriter& writer, const std::byte* gate, const std::byte* up,
                         int width, int in, Bf16* packed) {
  // As many tiles of 16 gate and 16 up rows at a time as fit.
  const size_t row_bytes = static_cast<size_t>(in) * sizeof(Bf16);
  const int fitting = static_cast<int>(writer.ring->half_bytes() / (2 * row_bytes));
  const int most = std::max(kTileOutputs, fitting / kTileOutputs * kTileOutputs);
  std::vector<Bf16> tiles;
  for (int begin = 0; begin < width; begin += most) {
    const int count = std::min(most, width - begin);
    tiles.resize(static_cast<size_t>(GateUpRows(count)) * in);
    InterleaveGateUp(gate + begin * row_bytes, up + begin * row_bytes, count, in, tiles.data());
    if (absl::Status s =
            writer.ring->Copy(packed + static_cast<int64_t>(2 * begin) * in, tiles.data(),
                              tiles.size() * sizeof(Bf16), writer.stream);
        !s.ok()) {
      return s;
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> WriteCodeRows(const WeightWriter& writer, const std::byte* rows, int out,
                                   int in, int row_begin, const CodeTarget& packed) {
  if (out == 0 || in == 0) return true;
  const int first = row_begin / kTileOutputs;
  std::vector<TileRows> tiles((row_begin + out - 1) / kTileOutputs - first + 1);
  for (int i = 0; i < out; ++i) {
    const int row = row_begin + i;
    tiles[row / kTileOutputs - first].rows[row % kTileOutputs] =
        rows + static_cast<size_t>(i) * in * sizeof(Bf16);
  }
  return WriteTiles(writer, tiles, first, in, packed);
}

absl::StatusOr<bool> WriteCodeGateUp(const WeightWriter& writer, const std::byte* gate,
                                     const std::byte* up, int width, int in,
                                     const CodeTarget& packed) {
  if (width == 0 || in == 0) return true;
  std::vector<TileRows> tiles(2 * PackedTiles(width));
  for (int i = 0; i < width; ++i) {
    const size_t at = static_cast<size_t>(i) * in * sizeof(Bf16);
    tiles[2 * (i / kTileOutputs)].rows[i % kTileOutputs] = gate + at;
    tiles[2 * (i / kTileOutputs) + 1].rows[i % kTileOutputs] = up + at;
  }
  return WriteTiles(writer, tiles, 0, in, packed);
}

}  // namespace tandem::kernels::K_WORLD
