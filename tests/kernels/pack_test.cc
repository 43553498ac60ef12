// Row-major matrices into the tile layout, by the formula of types.h.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

constexpr uint16_t kUntouched = 0xabcd;

struct alignas(64) Line {
  uint16_t values[32];
};

// A packed matrix full of kUntouched.
struct Packed {
  Packed(int rows, int in) : in(in), lines(PackedElements(rows, in) / 32) {
    for (Line& line : lines) std::fill(std::begin(line.values), std::end(line.values), kUntouched);
  }
  Bf16* data() { return reinterpret_cast<Bf16*>(lines.data()); }
  uint16_t& At(int n, int k) {
    return lines[n / 16 * ((in + 1) / 2) + k / 2].values[n % 16 * 2 + k % 2];
  }
  int Untouched() const {
    int count = 0;
    for (const Line& line : lines) {
      for (uint16_t value : line.values) count += value == kUntouched;
    }
    return count;
  }

  int in;
  std::vector<Line> lines;
};

uint16_t Value(int n, int k) { return static_cast<uint16_t>((n * 521 + k * 7) % 0x7fff); }

// `out` rows of Value(first + n, k), starting at an odd address.
std::vector<std::byte> RowMajor(int out, int in, int first) {
  std::vector<std::byte> bytes(size_t{2} * out * in + 1);
  for (int n = 0; n < out; ++n) {
    for (int k = 0; k < in; ++k) {
      const uint16_t value = Value(first + n, k);
      std::memcpy(bytes.data() + 1 + 2 * (size_t{1} * n * in + k), &value, 2);
    }
  }
  return bytes;
}

TEST(PackRowsTest, EveryElementLandsWhereTheLayoutSays) {
  const CpuBackendPtr backend = BackendAt(BestCpuIsa(), 2);
  for (int out : {1, 7, 16, 17, 50}) {
    for (int in : {1, 2, 7, 31, 32, 33, 64, 131}) {
      SCOPED_TRACE(testing::Message() << out << " x " << in);
      Packed packed(out, in);
      PackRows(*backend, RowMajor(out, in, 0).data() + 1, out, in, 0, packed.data());
      for (int n = 0; n < out; ++n) {
        for (int k = 0; k < in; ++k) ASSERT_EQ(packed.At(n, k), Value(n, k)) << n << "," << k;
      }
      // Padding is left alone.
      EXPECT_EQ(packed.Untouched(), static_cast<int>(PackedElements(out, in)) - out * in);
    }
  }
}

TEST(PackRowsTest, PartsMayBeginAtAnyRow) {
  // Given a matrix of 60 rows in parts of 5, 16, 30 and 9.
  const CpuBackendPtr backend = BackendAt(BestCpuIsa(), 3);
  constexpr int kIn = 67;
  Packed packed(60, kIn);
  int row = 0;
  for (int part : {5, 16, 30, 9}) {
    PackRows(*backend, RowMajor(part, kIn, row).data() + 1, part, kIn, row, packed.data());
    row += part;
  }
  // Then it is the matrix packed at once.
  for (int n = 0; n < 60; ++n) {
    for (int k = 0; k < kIn; ++k) ASSERT_EQ(packed.At(n, k), Value(n, k)) << n << "," << k;
  }
}

TEST(PackRowsTest, AMatrixLargeEnoughForTheTeamIsPackedWhole) {
  const CpuBackendPtr backend = BackendAt(BestCpuIsa(), 4);
  constexpr int kOut = 333, kIn = 258;
  Packed packed(kOut, kIn);
  PackRows(*backend, RowMajor(kOut, kIn, 0).data() + 1, kOut, kIn, 0, packed.data());
  for (int n = 0; n < kOut; ++n) {
    for (int k = 0; k < kIn; ++k) ASSERT_EQ(packed.At(n, k), Value(n, k)) << n << "," << k;
  }
}

TEST(PackGateUpTest, TilesAlternateBetweenGateAndUp) {
  const CpuBackendPtr backend = BackendAt(BestCpuIsa(), 2);
  for (int width : {1, 16, 17, 40}) {
    for (int in : {1, 33, 64}) {
      SCOPED_TRACE(testing::Message() << width << " x " << in);
      const int tiles = static_cast<int>(PackedTiles(width));
      Packed packed(32 * tiles, in);
      PackGateUp(*backend, RowMajor(width, in, 0).data() + 1, RowMajor(width, in, 1000).data() + 1,
                 width, in, packed.data());
      for (int i = 0; i < width; ++i) {
        for (int k = 0; k < in; ++k) {
          ASSERT_EQ(packed.At(i / 16 * 32 + i % 16, k), Value(i, k)) << i << "," << k;
          ASSERT_EQ(packed.At(i / 16 * 32 + 16 + i % 16, k), Value(1000 + i, k)) << i << "," << k;
        }
      }
      EXPECT_EQ(packed.Untouched(),
                static_cast<int>(PackedElements(32 * tiles, in)) - 2 * width * in);
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
