// The CUDA linear layer for prompt rows under emulation, against the reference.
#include "kernels/cuda/p_linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>
#include <vector>

#include "kernels/cuda/w_linear_pack.h"
#include "kernels/reference/linear_ref.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/linear_problem.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

using K_WORLD::PLinearTile;

// kernels.md 11.
constexpr double kLinearTolerance = 1e-6;
constexpr double kBf16Tolerance = 4e-3;

constexpr int kRowCounts[] = {1, 2, 17, 64, 127, 128, 130};

struct Problem {
  int rows;
  int in;
  int out;
  int x_stride;
  DeviceVector<Bf16> x;
  DeviceVector<Bf16> w;
};

Problem RandomProblem(int rows, int in, int out, int x_padding = 0) {
  const int x_stride = in + x_padding;
  return {rows,
          in,
          out,
          x_stride,
          OnDevice(RandomBf16(static_cast<size_t>(rows) * x_stride, 1)),
          OnDevice(RandomBf16(static_cast<size_t>(out) * in, 2,
                              1.0f / std::sqrt(static_cast<float>(in))))};
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

// Rows [first, first + rows) of the problem by themselves.
std::vector<float> Multiply(const Problem& p, int first, int rows, PLinearTile tile,
                            KernelStream* stream) {
  DeviceVector<float> y(static_cast<size_t>(rows) * p.out, -77.0f);
  K_WORLD::WLinearArgs args = Args(p);
  args.x += first * p.x_stride;
  args.rows = rows;
  args.y_f32 = y.data();
  K_WORLD::PLinearWithTile(args, tile, stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return {y.begin(), y.end()};
}

std::vector<float> Reference(const Problem& p) {
  std::vector<float> y(static_cast<size_t>(p.rows) * p.out);
  const std::vector<float> x = Widened({p.x.begin(), p.x.end()});
  const PackedWeights w = Packed({p.w.begin(), p.w.end()}, p.out, p.in);
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

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  return std::to_string(info.param.rows) + "x" + std::to_string(info.param.in) + "to" +
         std::to_string(info.param.out);
}

class PLinearTest : public testing::TestWithParam<Case> {};

TEST_P(PLinearTest, EqualsTheReferenceWithTheSameBitsInEverySchedule) {
  const auto [rows, in, out] = GetParam();
  const Problem p = RandomProblem(rows, in, out, /*x_padding=*/8);
  const std::vector<float> want = Reference(p);
  // Columns behind `out` belong to somebody else; with an odd stride no pair is aligned.
  for (const int y_stride : {out + 3, out + 4}) {
    const size_t values = static_cast<size_t>(rows) * y_stride;
    std::vector<DeviceVector<float>> wide;
    std::vector<DeviceVector<Bf16>> narrow;
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule, /*os_threads=*/2);
      K_WORLD::WLinearArgs args = Args(p);
      args.y_stride = y_stride;
      args.y_f32 = wide.emplace_back(values, 77.0f).data();
      K_WORLD::PLinear(args, stream.get());
      args.y_f32 = nullptr;
      args.y = narrow.emplace_back(values, ToBf16(77.0f)).data();
      K_WORLD::PLinear(args, stream.get());
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
}

// Fewer groups of 32 k than stages, as many, more; groups and tiles that are not full.
INSTANTIATE_TEST_SUITE_P(Shapes, PLinearTest,
                         testing::Values(Case{1, 8, 1}, Case{2, 96, 40}, Case{7, 584, 24},
                                         Case{16, 32, 33}, Case{17, 2112, 64}, Case{33, 160, 70},
                                         Case{64, 64, 16}, Case{127, 128, 65}, Case{128, 40, 130},
                                         Case{130, 104, 48}),
                         CaseName);

TEST(PLinearInvarianceTest, ARowsBitsDependNeitherOnTheTileNorOnTheNumberOfRows) {
  // Given 130 rows, each by itself in the smallest tile.
  const int max_rows = 130, in = 136, out = 136;
  const Problem p = RandomProblem(max_rows, in, out);
  KernelStream stream({}, /*os_threads=*/2);
  std::vector<float> alone;
  for (int t = 0; t < max_rows; ++t) {
    const std::vector<float> y = Multiply(p, t, 1, {16, 64}, &stream);
    alone.insert(alone.end(), y.begin(), y.end());
  }
  // When any number of them is multiplied in any tile, then the bits are the same.
  for (const PLinearTile tile : K_WORLD::kPLinearTiles) {
    for (const int rows : kRowCounts) {
      const int first = max_rows - rows;
      const std::vector<float> y = Multiply(p, first, rows, tile, &stream);
      ASSERT_TRUE(SameBits(y, {alone.begin() + first * out, alone.end()}))
          << rows << " rows, tile " << tile.rows << "x" << tile.outputs;
    }
  }
}

TEST(PLinearInvarianceTest, TheLargestTileHasTheSameBitsInEverySchedule) {
  const Problem p = RandomProblem(130, 136, 130);
  KernelStream first;
  const std::vector<float> want = Multiply(p, 0, p.rows, {128, 128}, &first);
  EXPECT_LE(RelativeError(want, Reference(p)), kLinearTolerance);
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    EXPECT_TRUE(SameBits(Multiply(p, 0, p.rows, {128, 128}, &stream), want));
  }
}

TEST(PLinearInvarianceTest, AddsGroupsInTheCanonicalOrder) {
  // Given one product in each group of 32 k, exact in f32, of magnitudes whose sums are not.
  for (const int in : {32 * 5, 32 * 19 + 8}) {
    const int rows = 3, out = 16, groups = (in + 31) / 32;
    Problem p = RandomProblem(rows, in, out);
    const std::vector<float> random = RandomFloats(groups, 3);
    for (int t = 0; t < rows; ++t) {
      for (int k = 0; k < in; ++k) {
        const int q = k / 32;
        const bool product = k % 32 == q * 5 % 8;
        p.x[t * in + k] = ToBf16(product ? std::ldexp(random[q], (7 * q + t) % 24) : 0.0f);
      }
    }
    for (const PLinearTile tile : K_WORLD::kPLinearTiles) {
      // When they are multiplied.
      KernelStream stream;
      const std::vector<float> y = Multiply(p, 0, rows, tile, &stream);
      // Then each value is the sum of the products in ascending order.
      for (int t = 0; t < rows; ++t) {
        for (int n = 0; n < out; ++n) {
          float want = 0.0f;
          for (int q = 0; q < groups; ++q) {
            const int k = 32 * q + q * 5 % 8;
            want += ToFloat(p.w[n * in + k]) * ToFloat(p.x[t * in + k]);
          }
          EXPECT_EQ(y[t * out + n], want) << in << " " << t << " " << n;
        }
      }
    }
  }
}

TEST(PLinearInvarianceTest, ARowsBitsDoNotDependOnItsNeighbours) {
  const int rows = 20, in = 192, out = 32, kept = 2;
  Problem p = RandomProblem(rows, in, out);
  KernelStream stream;
  const std::vector<float> before = Multiply(p, 0, rows, {32, 64}, &stream);
  for (int t = 0; t < rows; ++t) {
    if (t != kept) std::fill_n(p.x.begin() + t * in, in, ToBf16(NAN));
  }
  const std::vector<float> after = Multiply(p, 0, rows, {32, 64}, &stream);
  const std::vector<float> row(before.begin() + kept * out, before.begin() + (kept + 1) * out);
  EXPECT_TRUE(SameBits(row, {after.begin() + kept * out, after.begin() + (kept + 1) * out}));
  EXPECT_TRUE(std::isnan(after[0]));
}

TEST(PLinearTrafficTest, MovesTheBytesOfItsFormula) {
  for (const PLinearTile tile : K_WORLD::kPLinearTiles) {
    for (const auto& [rows, in, out] : {Case{1, 264, 64}, Case{40, 96, 40}, Case{130, 64, 17}}) {
      const Problem p = RandomProblem(rows, in, out);
      KernelStream stream;
      Multiply(p, 0, rows, tile, &stream);
      const uint64_t row_blocks = (rows + tile.rows - 1) / tile.rows;
      const uint64_t output_blocks = (out + tile.outputs - 1) / tile.outputs;
      const emu::TrafficBytes traffic = stream.TakeTraffic();
      if (kCountsTraffic) {
        EXPECT_EQ(traffic.read, 2u * in * (out * row_blocks + rows * output_blocks));
        EXPECT_EQ(traffic.written, 4u * rows * out);
      }
    }
  }
}

TEST(PLinearShapesTest, EveryBlockOfALargeGridHasItsOwnPlace) {
  // Given more blocks of rows than run through in one go, and two blocks of outputs.
  const Problem p = RandomProblem(16 * 16 + 5, 8, 72);
  KernelStream stream({}, /*os_threads=*/2);
  const std::vector<float> y = Multiply(p, 0, p.rows, {16, 64}, &stream);
  EXPECT_LE(RelativeError(y, Reference(p)), kLinearTolerance);
}

TEST(PLinearShapesTest, ChoosesTilesThatWereBuilt) {
  for (const int out : {16, 4096, 262144}) {
    for (const int rows : {1, 16, 17, 32, 33, 64, 65, 128, 4096}) {
      const PLinearTile tile = K_WORLD::ChoosePLinearTile(rows, out);
      EXPECT_TRUE(std::any_of(
          std::begin(K_WORLD::kPLinearTiles), std::end(K_WORLD::kPLinearTiles),
          [&](PLinearTile t) { return t.rows == tile.rows && t.outputs == tile.outputs; }))
          << rows << " " << out;
    }
  }
  EXPECT_EQ(K_WORLD::ChoosePLinearTile(4096, 5376).rows, 128);
}

TEST(PLinearShapesTest, LengthsWithoutAKernelAreTold) {
  for (const int in : {8, 96, 704, 21504}) EXPECT_TRUE(K_WORLD::PLinearSupports(in)) << in;
  for (const int in : {0, -8, 4, 1540}) EXPECT_FALSE(K_WORLD::PLinearSupports(in)) << in;
}

TEST(PLinearShapesTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::PLinear({.in = 64, .out = 16}, stream.get());
  K_WORLD::PLinearGeglu({.in = 64, .width = 16}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

struct GegluProblem {
  int rows;
  int in;
  int width;
  std::vector<Bf16> gate;
  std::vector<Bf16> up;
  DeviceVector<Bf16> x;
  DeviceVector<Bf16> w;
};

GegluProblem RandomGeglu(int rows, int in, int width) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(in));
  GegluProblem p = {rows,
                    in,
                    width,
                    RandomBf16(width * in, 6, scale),
                    RandomBf16(width * in, 7, scale),
                    OnDevice(RandomBf16(rows * in, 5)),
                    {}};
  std::vector<Bf16> w(static_cast<size_t>(GateUpRows(width)) * in);
  InterleaveGateUp(p.gate.data(), p.up.data(), width, in, w.data());
  p.w = OnDevice(w);
  return p;
}

std::vector<Bf16> RunGeglu(const GegluProblem& p, int rows, int y_stride, PLinearTile tile,
                           KernelStream* stream) {
  DeviceVector<Bf16> y(static_cast<size_t>(rows) * y_stride, ToBf16(77.0f));
  K_WORLD::PLinearGegluWithTile({.x = p.x.data(),
                                 .x_stride = p.in,
                                 .w = p.w.data(),
                                 .y = y.data(),
                                 .y_stride = y_stride,
                                 .rows = rows,
                                 .in = p.in,
                                 .width = p.width},
                                tile, stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return {y.begin(), y.end()};
}

class PLinearGegluTest : public testing::TestWithParam<Case> {};

TEST_P(PLinearGegluTest, EqualsTheReferenceWithTheSameBitsInEveryScheduleAndTile) {
  const auto [rows, in, width] = GetParam();
  const GegluProblem p = RandomGeglu(rows, in, width);
  std::vector<float> want(static_cast<size_t>(rows) * width);
  const std::vector<float> x = Widened({p.x.begin(), p.x.end()});
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
  const std::vector<Bf16> got = RunGeglu(p, rows, width, {16, 64}, &first);
  EXPECT_LE(RelativeError(Widened(got), want), kBf16Tolerance);
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    for (const PLinearTile tile : K_WORLD::kPLinearTiles) {
      EXPECT_TRUE(SameBits(RunGeglu(p, rows, width, tile, &stream), got));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, PLinearGegluTest,
                         testing::Values(Case{1, 64, 16}, Case{5, 584, 40}, Case{33, 96, 5},
                                         Case{130, 40, 96}),
                         CaseName);

TEST(PLinearGegluShapesTest, WritesItsWidthAndNothingBehind) {
  const int rows = 3, width = 21, y_stride = 32;
  const GegluProblem p = RandomGeglu(rows, 64, width);
  for (const PLinearTile tile : K_WORLD::kPLinearTiles) {
    KernelStream stream;
    const std::vector<Bf16> y = RunGeglu(p, rows, y_stride, tile, &stream);
    for (int t = 0; t < rows; ++t) {
      for (int n = 0; n < y_stride; ++n) {
        EXPECT_EQ(ToFloat(y[t * y_stride + n]) == 77.0f, n >= width) << t << " " << n;
      }
    }
    if (kCountsTraffic) {
      EXPECT_EQ(stream.TakeTraffic().written, 2u * rows * width);
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
