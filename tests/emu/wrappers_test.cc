// Every wrapper of kport.h, run by a warp of the emulator, against its definition.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "tests/emu/kernel_stream.h"
#include "tests/emu/wrapper_kernels.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

constexpr int kLanes = 32;

TEST(WrappersTest, ArithmeticIsThatOfTheType) {
  // Given values whose squares and conversions round.
  std::vector<float> x(kLanes);
  for (int i = 0; i < kLanes; ++i) x[i] = 0.37f * static_cast<float>(i + 1) + 1e-3f;
  std::vector<float> y(K_WORLD::kNumFloatOps * kLanes, -7.0f);
  KernelStream stream;
  K_WORLD::FloatOps(x.data(), y.data(), stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  const auto bf16 = [](float v) { return ToFloat(ToBf16(v)); };
  const auto f16 = [](float v) { return ToFloat(ToF16(v)); };
  const double sum = std::accumulate(x.begin(), x.end(), 0.0);
  const std::function<double(float)> want[K_WORLD::kNumFloatOps] = {
      [](float v) { return static_cast<float>(double{v} * v - 1.0); },
      [](float v) { return static_cast<float>(double{v} * v); },
      [](float v) { return static_cast<float>(double{v} + 0.1f); },
      [](float v) { return static_cast<float>(1.0 / v); },
      [](float v) { return static_cast<float>(std::sqrt(double{v})); },
      [](float v) { return std::nearbyint(v); },
      [](float v) { return std::exp2(double{v}); },
      [](float v) { return 1.0 / v; },
      [](float v) { return 1.0 / std::sqrt(double{v}); },
      [](float v) { return std::tanh(double{v}); },
      [](float v) { return v; },
      bf16,
      f16,
      [&](float v) { return f16(v * 0x1p-24f); },  // subnormal
      bf16,
      [&](float v) { return -bf16(v); },
      f16,
      [&](float v) { return -f16(v); },
      [&](float) { return sum; },
      [&](float) { return x.back(); },
  };
  for (int op = 0; op < K_WORLD::kNumFloatOps; ++op) {
    // Approximate functions and the sum may be some units in the last place off, the others not.
    const bool exact = op < 6 || (op > 9 && op != 18);
    for (int lane = 0; lane < kLanes; ++lane) {
      const double expected = want[op](x[lane]);
      const double tolerance = exact ? 0.0 : std::abs(expected) * 1e-6;
      EXPECT_NEAR(y[op * kLanes + lane], expected, tolerance) << "op " << op << " lane " << lane;
    }
  }
}

uint32_t Byte(uint64_t x, int i) { return static_cast<uint32_t>(x >> 8 * i) & 0xff; }

TEST(WrappersTest, BitOperationsFollowPtx) {
  std::vector<uint32_t> x(kLanes);
  uint32_t state = 12345;
  for (uint32_t& v : x) v = state = state * 1664525u + 1013904223u;
  std::vector<uint32_t> y(K_WORLD::kNumBitOps * kLanes, 0xdeadbeef);
  KernelStream stream;
  K_WORLD::BitOps(x.data(), y.data(), stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint32_t a = x[lane], b = x[(lane + 1) % kLanes], c = x[(lane + 2) % kLanes];
    const auto got = [&](int op) { return y[op * kLanes + lane]; };
    EXPECT_EQ(got(0), Byte(a, 0) | Byte(b, 0) << 8 | Byte(a, 1) << 16 | Byte(b, 1) << 24);
    EXPECT_EQ(got(1), Byte(a, 2) | Byte(b, 2) << 8 | Byte(a, 3) << 16 | Byte(b, 3) << 24);
    // 0xfb80: byte 0, eight copies of the sign of byte 0, of byte 3 of a, of byte 3 of b.
    const auto sign = [](uint32_t byte) { return byte >= 0x80 ? 0xffu : 0u; };
    EXPECT_EQ(got(2),
              Byte(a, 0) | sign(Byte(a, 0)) << 8 | sign(Byte(a, 3)) << 16 | sign(Byte(b, 3)) << 24);
    EXPECT_EQ(got(3), (a & b) | (a & c) | (b & c));
    EXPECT_EQ(got(4), a ^ b ^ c);
    int dot = 7;
    for (int i = 0; i < 4; ++i) {
      dot += static_cast<int8_t>(Byte(a, i)) * static_cast<int8_t>(Byte(b, i));
    }
    EXPECT_EQ(got(5), static_cast<uint32_t>(dot));
    for (int half = 0; half < 2; ++half) {
      // f16 8 + u/128 minus 9, as q8 rows are decoded; bf16 128 + u minus 128, as 8-bit weights.
      const uint32_t u = Byte(a, 2 * half);
      EXPECT_EQ(ToFloat(F16{static_cast<uint16_t>(got(6) >> 16 * half)}),
                static_cast<float>(u) / 128.0f - 1.0f);
      EXPECT_EQ(ToFloat(Bf16{static_cast<uint16_t>(got(7) >> 16 * half)}),
                static_cast<float>(u & 0x7f));
    }
    EXPECT_EQ(got(8), x[0] ^ x[1] ^ x[2] ^ x[3]);
    EXPECT_EQ(got(9), x[3]);
    EXPECT_EQ(got(10), x[0] >> 16);
    EXPECT_EQ(got(11), x[0] >> 24);
  }
}

TEST(WrappersTest, LanesExchangeAsCudaDefines) {
  std::vector<int32_t> x(kLanes);
  for (int i = 0; i < kLanes; ++i) x[i] = i * 5 % 37;
  std::vector<int32_t> y(K_WORLD::kNumExchanges * kLanes, -7);
  KernelStream stream;
  K_WORLD::Exchanges(x.data(), y.data(), stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  uint32_t ballot = 0;
  int odd = 0, seven = 0;
  for (int i = 0; i < kLanes; ++i) {
    ballot |= static_cast<uint32_t>(x[i] % 3 == 0) << i;
    odd += x[i] % 2;
    seven |= x[i] == 7;
  }
  for (int l = 0; l < kLanes; ++l) {
    const int want[K_WORLD::kNumExchanges] = {
        x[5],
        x[l / 8 * 8 + 3],
        x[l < 2 ? l : l - 2],
        x[l % 16 < 3 ? l : l - 3],
        x[l + 2 > 31 ? l : l + 2],
        x[l % 16 + 3 > 15 ? l : l + 3],
        x[l ^ 9],
        x[l ^ 3],
        x[l ^ 1],
        static_cast<int>(ballot),
        seven,
        1,
        odd,
        1,
        0,
        0,
    };
    for (int op = 0; op < K_WORLD::kNumExchanges; ++op) {
      EXPECT_EQ(y[op * kLanes + l], want[op]) << "op " << op << " lane " << l;
    }
  }
}

TEST(WrappersTest, MatrixLoadsFollowTheFragmentLayout) {
  // Given 4 tiles of 8 rows, value 100 * row + column.
  std::vector<uint16_t> x(32 * 8);
  for (int r = 0; r < 32; ++r) {
    for (int c = 0; c < 8; ++c) x[r * 8 + c] = static_cast<uint16_t>(100 * r + c);
  }
  std::vector<uint32_t> y(7 * 4 * kLanes, 0xdeadbeef);
  KernelStream stream;
  K_WORLD::MatrixLoads(x.data(), y.data(), stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  const int tiles[7] = {1, 1, 2, 2, 4, 4, 1};
  for (int form = 0; form < 7; ++form) {
    const bool transposed = form % 2 == 1 || form == 6;
    for (int tile = 0; tile < tiles[form]; ++tile) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const int g = lane / 4, t = lane % 4;
        const auto value = [&](int row, int column) {
          return static_cast<uint32_t>(100 * (8 * tile + row) + column);
        };
        const uint32_t want = transposed ? value(2 * t, g) | value(2 * t + 1, g) << 16
                                         : value(g, 2 * t) | value(g, 2 * t + 1) << 16;
        EXPECT_EQ(y[(form * 4 + tile) * kLanes + lane], want) << form << " " << tile << " " << lane;
      }
    }
  }
}

template <typename Float16>
void ExpectProduct(Float16 (*round)(float),
                   void (*mma)(const Float16*, const Float16*, float*, K_WORLD::Stream)) {
  std::vector<Float16> a, b;
  for (const float v : RandomFloats(16 * 16, 5)) a.push_back(round(v));
  for (const float v : RandomFloats(16 * 8, 6)) b.push_back(round(v));
  std::vector<float> d(16 * 8, -7.0f);
  KernelStream stream;
  mma(a.data(), b.data(), d.data(), stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  for (int m = 0; m < 16; ++m) {
    for (int n = 0; n < 8; ++n) {
      double want = 0.0, magnitude = 0.0;
      for (int k = 0; k < 16; ++k) {
        const double product = double{ToFloat(a[m * 16 + k])} * ToFloat(b[k * 8 + n]);
        want += product;
        magnitude += std::abs(product);
      }
      EXPECT_NEAR(d[m * 8 + n], want, 1e-6 * magnitude) << m << " " << n;
    }
  }
}

TEST(WrappersTest, MatrixProductsFollowTheFragmentLayout) {
  ExpectProduct<Bf16>(&ToBf16, &K_WORLD::MmaBf16);
  ExpectProduct<F16>(&ToF16, &K_WORLD::MmaF16);
}

TEST(WrappersTest, AsyncCopiesArriveAtTheirWaitAndFillWithZeros) {
  std::vector<uint32_t> x(64);
  for (uint32_t i = 0; i < 64; ++i) x[i] = 1000 + i;
  std::vector<uint32_t> y(96, 0xdeadbeef);
  KernelStream stream;
  K_WORLD::AsyncCopies(x.data(), y.data(), stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  for (uint32_t i = 0; i < 96; ++i) EXPECT_EQ(y[i], i < 64 ? 1000 + i : 0) << i;
  if (kCountsTraffic) {
    EXPECT_EQ(stream.TakeTraffic().read, 256u);
  }
}

TEST(WrappersTest, AtomicsCountAcrossBlocksOnSeveralOsThreads) {
  std::vector<int32_t> counters(2, 0), last(1, -1);
  std::vector<uint64_t> wide(1, uint64_t{1} << 40);
  KernelStream stream({emu::Order::kSeeded, 3}, /*os_threads=*/3);
  K_WORLD::Counting(17, counters.data(), wide.data(), last.data(), stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  EXPECT_EQ(counters[0], 17 * 32);
  EXPECT_EQ(wide[0], (uint64_t{1} << 40) + 17 * 32);
  EXPECT_EQ(last[0], 16);
}

}  // namespace
}  // namespace tandem::kernels
