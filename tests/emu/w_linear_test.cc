// The CUDA linear layer for few rows, against the reference.
#include "kernels/cuda/w_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "kernels/cuda/w_linear_pack.h"
#include "kernels/reference/linear_ref.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/linear_problem.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

using K_WORLD::WLinearTile;

// kernels.md 11.
constexpr double kLinearTolerance = 1e-6;
constexpr double kBf16Tolerance = 4e-3;

struct Problem {
  int rows;
  int in;
  int out;
  int x_stride;
  std::vector<Bf16> x;
  std::vector<Bf16> w;
};

Problem RandomProblem(int rows, int in, int out, int x_padding = 0) {
  const int x_stride = in + x_padding;
  return {rows,
          in,
          out,
          x_stride,
          RandomBf16(static_cast<size_t>(rows) * x_stride, 1),
          RandomBf16(static_cast<size_t>(out) * in, 2, 1.0f / std::sqrt(static_cast<float>(in)))};
}

K_WORLD::WLinearArgs Args(const Problem& p) {
  return {.x = p.x.data(),
          .x_stride = p.x_stride,
          .w = p.w.data(),
          .y_stride = p.out,
          .rows = p.rows,
          .in = p.in,
          .out = p.out};
}

std::vector<float> Multiply(const Problem& p, WLinearTile tile, KernelStream* stream) {
  std::vector<float> y(static_cast<size_t>(p.rows) * p.out, -77.0f);
  K_WORLD::WLinearArgs args = Args(p);
  args.y_f32 = y.data();
  K_WORLD::WLinearWithTile(args, tile, stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return y;
}

std::vector<float> Reference(const Problem& p) {
  std::vector<float> y(static_cast<size_t>(p.rows) * p.out);
  const std::vector<float> x = Widened(p.x);
  const PackedWeights w = Packed(p.w, p.out, p.in);
  LinearReference({.x = x.data(),
                   .x_stride = p.x_stride,
                   .w = w.view(),
                   .y = y.data(),
                   .y_stride = p.out,
                   .rows = p.rows},
                  Operands::kF32);
  return y;
}

struct Case {
  int rows;
  int in;
  int out;
};

class WLinearTest : public testing::TestWithParam<Case> {};

TEST_P(WLinearTest, EqualsTheReferenceWithTheSameBitsInEverySchedule) {
  const auto [rows, in, out] = GetParam();
  const Problem p = RandomProblem(rows, in, out, /*x_padding=*/8);
  const std::vector<float> want = Reference(p);
  // Columns behind `out` belong to somebody else.
  const int y_stride = out + 3;
  const size_t values = static_cast<size_t>(rows) * y_stride;
  std::vector<std::vector<float>> wide;
  std::vector<std::vector<Bf16>> narrow;
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    K_WORLD::WLinearArgs args = Args(p);
    args.y_stride = y_stride;
    args.y_f32 = wide.emplace_back(values, 77.0f).data();
    K_WORLD::WLinear(args, stream.get());
    args.y_f32 = nullptr;
    args.y = narrow.emplace_back(values, ToBf16(77.0f)).data();
    K_WORLD::WLinear(args, stream.get());
    ASSERT_EQ(stream.TakeError(), "");
  }
  std::vector<float> got, got_narrow;
  for (int t = 0; t < rows; ++t) {
    for (int n = 0; n < y_stride; ++n) {
      const float y = wide[0][t * y_stride + n];
      const Bf16 rounded = narrow[0][t * y_stride + n];
      if (n < out) {
        got.push_back(y);
        got_narrow.push_back(ToFloat(rounded));
        EXPECT_EQ(rounded.bits, ToBf16(y).bits) << t << " " << n;
      } else {
        EXPECT_EQ(y, 77.0f) << t << " " << n;
        EXPECT_EQ(ToFloat(rounded), 77.0f) << t << " " << n;
      }
    }
  }
  EXPECT_LE(RelativeError(got, want), kLinearTolerance);
  EXPECT_LE(RelativeError(got_narrow, want), kBf16Tolerance);
  for (size_t i = 1; i < wide.size(); ++i) {
    EXPECT_TRUE(SameBits(wide[i], wide[0])) << i;
    EXPECT_TRUE(SameBits(narrow[i], narrow[0])) << i;
  }
}

// Fewer groups of k than segments, one each, more; groups, tiles and passes that are not full.
INSTANTIATE_TEST_SUITE_P(Shapes, WLinearTest,
                         testing::Values(Case{1, 8, 1}, Case{1, 512, 16}, Case{3, 96, 40},
                                         Case{7, 584, 24}, Case{8, 32, 33}, Case{9, 704, 16},
                                         Case{13, 2112, 32}, Case{31, 160, 1000}, Case{33, 64, 16},
                                         Case{65, 200, 20}, Case{128, 64, 48}),
                         [](const testing::TestParamInfo<Case>& info) {
                           return std::to_string(info.param.rows) + "x" +
                                  std::to_string(info.param.in) + "to" +
                                  std::to_string(info.param.out);
                         });

TEST(WLinearInvarianceTest, ARowsBitsDependNeitherOnTheTileNorOnTheNumberOfRows) {
  // Given 40 rows, each by itself in the smallest tile.
  const int max_rows = 40, in = 584, out = 40;
  const Problem all = RandomProblem(max_rows, in, out);
  KernelStream stream({}, /*os_threads=*/2);
  std::vector<float> alone;
  for (int t = 0; t < max_rows; ++t) {
    Problem one = all;
    one.rows = 1;
    one.x.assign(all.x.begin() + t * in, all.x.begin() + (t + 1) * in);
    const std::vector<float> y = Multiply(one, {1, 1}, &stream);
    alone.insert(alone.end(), y.begin(), y.end());
  }
  // When any number of them is multiplied in any tile, then the bits are the same.
  for (const WLinearTile tile : K_WORLD::kWLinearTiles) {
    for (int rows = 1; rows <= max_rows; ++rows) {
      Problem some = all;
      some.rows = rows;
      const std::vector<float> y = Multiply(some, tile, &stream);
      ASSERT_TRUE(SameBits(y, {alone.begin(), alone.begin() + rows * out}))
          << rows << " rows, tile " << tile.tiles << "x" << tile.columns;
    }
  }
}

TEST(WLinearInvarianceTest, AddsGroupsThenSegmentsInTheCanonicalOrder) {
  // Given one product in each group of 64 k, exact in f32, of magnitudes whose sums are not.
  for (const int in : {64 * 5, 64 * 8, 64 * 19 + 8}) {
    const int rows = 3, out = 16, groups = (in + 63) / 64;
    Problem p = RandomProblem(rows, in, out);
    const std::vector<float> random = RandomFloats(groups, 3);
    for (int t = 0; t < rows; ++t) {
      for (int k = 0; k < in; ++k) {
        const int q = k / 64;
        const bool product = k % 64 == q * 5 % 8;
        p.x[t * in + k] = ToBf16(product ? std::ldexp(random[q], (7 * q + t) % 24) : 0.0f);
      }
    }
    // When they are multiplied.
    KernelStream stream;
    const std::vector<float> y = Multiply(p, {1, 1}, &stream);
    // Then each value has the bits of kernels.md 5.5.1.
    for (int t = 0; t < rows; ++t) {
      for (int n = 0; n < out; ++n) {
        float want = 0.0f;
        for (int j = 0; j < 8; ++j) {
          float segment = 0.0f;
          for (int q = groups * j / 8; q < groups * (j + 1) / 8; ++q) {
            const int k = 64 * q + q * 5 % 8;
            segment += ToFloat(p.w[n * in + k]) * ToFloat(p.x[t * in + k]);
          }
          want += segment;
        }
        EXPECT_EQ(y[t * out + n], want) << in << " " << t << " " << n;
      }
    }
  }
}

TEST(WLinearInvarianceTest, ARowsBitsDoNotDependOnItsNeighbours) {
  const int rows = 5, in = 192, out = 32;
  Problem p = RandomProblem(rows, in, out);
  KernelStream stream;
  const std::vector<float> before = Multiply(p, {2, 1}, &stream);
  for (int t : {0, 1, 3, 4}) std::fill_n(p.x.begin() + t * in, in, ToBf16(NAN));
  const std::vector<float> after = Multiply(p, {2, 1}, &stream);
  const std::vector<float> kept(before.begin() + 2 * out, before.begin() + 3 * out);
  EXPECT_TRUE(SameBits(kept, {after.begin() + 2 * out, after.begin() + 3 * out}));
  EXPECT_TRUE(std::isnan(after[0]));
}

TEST(WLinearTrafficTest, MovesTheBytesOfItsFormula) {
  for (const WLinearTile tile : K_WORLD::kWLinearTiles) {
    for (const auto& [rows, in, out] : {Case{1, 512, 64}, Case{13, 96, 40}, Case{70, 64, 17}}) {
      if (!kCountsTraffic) continue;
      const Problem p = RandomProblem(rows, in, out);
      KernelStream stream;
      Multiply(p, tile, &stream);
      const uint64_t row_blocks = (rows + 8 * tile.columns - 1) / (8 * tile.columns);
      const uint64_t output_blocks = (out + 16 * tile.tiles - 1) / (16 * tile.tiles);
      const emu::TrafficBytes traffic = stream.TakeTraffic();
      EXPECT_EQ(traffic.read, 2u * in * (out * row_blocks + rows * output_blocks));
      EXPECT_EQ(traffic.written, 4u * rows * out);
    }
  }
}

TEST(WLinearShapesTest, ChoosesTilesThatWereBuilt) {
  for (const int out : {16, 4096, 262144}) {
    for (const bool geglu : {false, true}) {
      for (int rows = 1; rows <= 130; ++rows) {
        const WLinearTile tile = K_WORLD::ChooseWLinearTile(rows, out, geglu);
        const bool built = std::any_of(
            std::begin(K_WORLD::kWLinearTiles), std::end(K_WORLD::kWLinearTiles),
            [&](WLinearTile t) { return t.tiles == tile.tiles && t.columns == tile.columns; });
        EXPECT_TRUE(built) << rows << " " << out << " " << geglu;
        if (geglu) {
          EXPECT_EQ(tile.tiles, 2);
        }
      }
    }
  }
}

TEST(WLinearShapesTest, LengthsWithoutAKernelAreTold) {
  for (const int in : {8, 96, 704, 21504}) EXPECT_TRUE(K_WORLD::WLinearSupports(in)) << in;
  for (const int in : {0, -8, 4, 1540}) EXPECT_FALSE(K_WORLD::WLinearSupports(in)) << in;
}

TEST(WLinearShapesTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::WLinear({.in = 64, .out = 16}, stream.get());
  K_WORLD::WLinearGeglu({.in = 64, .width = 16}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

struct GegluProblem {
  int rows;
  int in;
  int width;
  std::vector<Bf16> x;
  std::vector<Bf16> gate;
  std::vector<Bf16> up;
  std::vector<Bf16> w;
};

GegluProblem RandomGeglu(int rows, int in, int width) {
  GegluProblem p = {rows, in, width, RandomBf16(rows * in, 5), {}, {}, {}};
  const float scale = 1.0f / std::sqrt(static_cast<float>(in));
  p.gate = RandomBf16(width * in, 6, scale);
  p.up = RandomBf16(width * in, 7, scale);
  p.w.assign(static_cast<size_t>(GateUpRows(width)) * in, ToBf16(NAN));
  InterleaveGateUp(p.gate.data(), p.up.data(), width, in, p.w.data());
  return p;
}

std::vector<Bf16> RunGeglu(const GegluProblem& p, WLinearTile tile, KernelStream* stream) {
  std::vector<Bf16> y(static_cast<size_t>(p.rows) * p.width, ToBf16(77.0f));
  K_WORLD::WLinearGegluWithTile({.x = p.x.data(),
                                 .x_stride = p.in,
                                 .w = p.w.data(),
                                 .y = y.data(),
                                 .y_stride = p.width,
                                 .rows = p.rows,
                                 .in = p.in,
                                 .width = p.width},
                                tile, stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return y;
}

class WLinearGegluTest : public testing::TestWithParam<Case> {};

TEST_P(WLinearGegluTest, EqualsTheReferenceWithTheSameBitsInEveryScheduleAndTile) {
  const auto [rows, in, width] = GetParam();
  const GegluProblem p = RandomGeglu(rows, in, width);
  std::vector<float> want(static_cast<size_t>(rows) * width);
  const std::vector<float> x = Widened(p.x);
  PackedWeights w(GateUpRows(width), in);
  for (int i = 0; i < width; ++i) {
    for (int k = 0; k < in; ++k) {
      w.Gate(i, k) = p.gate[i * in + k];
      w.Up(i, k) = p.up[i * in + k];
    }
  }
  LinearGegluReference({.x = x.data(),
                        .x_stride = in,
                        .w = w.view(),
                        .y = want.data(),
                        .y_stride = width,
                        .rows = rows,
                        .width = width},
                       Operands::kF32);
  KernelStream first;
  const std::vector<Bf16> got =
      RunGeglu(p, K_WORLD::ChooseWLinearTile(rows, GateUpRows(width), true), &first);
  EXPECT_LE(RelativeError(Widened(got), want), kBf16Tolerance);
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    for (const WLinearTile tile : K_WORLD::kWLinearTiles) {
      EXPECT_TRUE(SameBits(RunGeglu(p, tile, &stream), got));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, WLinearGegluTest,
                         testing::Values(Case{1, 64, 16}, Case{5, 584, 40}, Case{33, 96, 5}),
                         [](const testing::TestParamInfo<Case>& info) {
                           return std::to_string(info.param.rows) + "x" +
                                  std::to_string(info.param.in) + "to" +
                                  std::to_string(info.param.out);
                         });

TEST(InterleaveGateUpTest, AlternatesTilesAndEndsInZeros) {
  // Given 20 rows of two values each; value 100 + i of gate row i, 200 + i of up row i.
  std::vector<Bf16> gate, up;
  for (int i = 0; i < 20; ++i) {
    gate.insert(gate.end(), 2, ToBf16(100.0f + i));
    up.insert(up.end(), 2, ToBf16(200.0f + i));
  }
  std::vector<Bf16> w(2 * 64, ToBf16(NAN));
  // When they are interleaved.
  ASSERT_EQ(GateUpRows(20), 64);
  InterleaveGateUp(gate.data(), up.data(), 20, 2, w.data());
  // Then tiles of 16 rows alternate, and the second ones have 12 rows of zeros.
  for (int n = 0; n < 64; ++n) {
    const int i = n / 32 * 16 + n % 16;
    const float want = i >= 20 ? 0.0f : (n % 32 < 16 ? 100.0f : 200.0f) + i;
    EXPECT_EQ(ToFloat(w[2 * n]), want) << n;
    EXPECT_EQ(ToFloat(w[2 * n + 1]), want) << n;
  }
}

}  // namespace
}  // namespace tandem::kernels
