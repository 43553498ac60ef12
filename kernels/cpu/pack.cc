// Row-major bf16 matrices into the tile layout of types.h, on the team.
//
// A tile of 16 rows is read 64 bytes of each row at a time and transposed in 4 x 4 blocks of pairs:
// rows whose stride is a multiple of 4 KiB would otherwise push each other out of L1.
#include <emmintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/cpu/backend_impl.h"

namespace tandem::kernels {
namespace {

// Work that is not worth waking the team for.
constexpr size_t kAloneBytes = 64 << 10;

// Pairs [begin, begin + 16) of 16 rows, `row_bytes` apart, to 16 lines.
void PackSquare(const std::byte* rows, size_t row_bytes, std::byte* lines) {
  for (int row = 0; row < 16; row += 4) {
    for (int quad = 0; quad < 4; ++quad) {
      const auto load = [&](int r) {
        return _mm_loadu_si128(
            reinterpret_cast<const __m128i*>(rows + (row + r) * row_bytes + quad * 16));
      };
      const auto store = [&](int pair, __m128i value) {
        _mm_store_si128(reinterpret_cast<__m128i*>(lines + (quad * 4 + pair) * 64 + row * 4),
                        value);
      };
      const __m128i r0 = load(0), r1 = load(1), r2 = load(2), r3 = load(3);
      const __m128i low01 = _mm_unpacklo_epi32(r0, r1), high01 = _mm_unpackhi_epi32(r0, r1);
      const __m128i low23 = _mm_unpacklo_epi32(r2, r3), high23 = _mm_unpackhi_epi32(r2, r3);
      store(0, _mm_unpacklo_epi64(low01, low23));
      store(1, _mm_unpackhi_epi64(low01, low23));
      store(2, _mm_unpacklo_epi64(high01, high23));
      store(3, _mm_unpackhi_epi64(high01, high23));
    }
  }
}

// `count` rows of `in` inputs into rows [first, first + count) of a tile, inputs from `input` on.
void PackLanes(const std::byte* rows, int count, int in, int first, int input, std::byte* tile) {
  const size_t row_bytes = size_t{2} * in;
  for (int r = 0; r < count; ++r) {
    const std::byte* row = rows + r * row_bytes;
    std::byte* lane = tile + (first + r) * 4;
    for (int k = input; k < in; ++k) {
      std::memcpy(lane + size_t{64} * (k / 2) + 2 * (k % 2), row + size_t{2} * k, 2);
    }
  }
}

void PackTile(const std::byte* rows, int count, int in, int first, std::byte* tile) {
  int done = 0;
  if (count == 16) {
    for (; done + 32 <= in; done += 32) {
      PackSquare(rows + size_t{2} * done, size_t{2} * in, tile + size_t{32} * done);
    }
  }
  PackLanes(rows, count, in, first, done, tile);
}

size_t TileBytes(int in) { return PackedElements(kTileOutputs, in) * sizeof(Bf16); }

int64_t TilesAtATime(int64_t tiles, int in) {
  return tiles * TileBytes(in) <= kAloneBytes ? std::max<int64_t>(tiles, 1) : 1;
}

}  // namespace

void PackRows(CpuBackend& backend, const std::byte* rows, int out, int in, int row_begin,
              Bf16* packed) {
  if (out == 0 || in == 0) return;
  std::byte* const tiles = reinterpret_cast<std::byte*>(packed);
  const int first_tile = row_begin / kTileOutputs;
  const int64_t count = (row_begin + out - 1) / kTileOutputs - first_tile + 1;
  backend.team.ForEach(count, TilesAtATime(count, in), [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int tile = first_tile + static_cast<int>(i);
      const int row = std::max(row_begin, tile * kTileOutputs);
      const int row_end = std::min(row_begin + out, (tile + 1) * kTileOutputs);
      PackTile(rows + size_t{2} * in * (row - row_begin), row_end - row, in,
               row - tile * kTileOutputs, tiles + tile * TileBytes(in));
    }
  });
}

void PackGateUp(CpuBackend& backend, const std::byte* gate, const std::byte* up, int width, int in,
                Bf16* packed) {
  if (width == 0 || in == 0) return;
  std::byte* const tiles = reinterpret_cast<std::byte*>(packed);
  const int64_t count = 2 * static_cast<int64_t>(PackedTiles(width));
  backend.team.ForEach(count, TilesAtATime(count, in), [&](int, int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int row = static_cast<int>(tile / 2) * kTileOutputs;
      const std::byte* rows = tile % 2 == 0 ? gate : up;
      PackTile(rows + size_t{2} * in * row, std::min(kTileOutputs, width - row), in, 0,
               tiles + tile * TileBytes(in));
    }
  });
}

}  // namespace tandem::kernels
