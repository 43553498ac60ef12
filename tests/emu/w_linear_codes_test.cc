// The CUDA linear layer with int8 and int4 weights, against sums in f64.
#include "kernels/cuda/w_linear_codes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/cuda/w_linear_pack.h"
#include "kernels/reference/row_ops_ref.h"
#include "tests/emu/bf16_rows.h"
#include "tests/emu/code_matrix.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

using K_WORLD::WLinearTile;

// kernels.md 11.
constexpr double kLinearTolerance = 1e-6;
constexpr double kBf16Tolerance = 4e-3;

struct Problem {
  int rows;
  int x_stride;
  DeviceVector<Bf16> x;
  CodeMatrix w;
};

Problem RandomProblem(WeightFormat format, int rows, int in, int out, int x_padding = 0) {
  const std::vector<Bf16> x = RandomBf16(static_cast<size_t>(rows) * (in + x_padding), 1);
  return {rows, in + x_padding, {x.begin(), x.end()}, RandomCodes(format, out, in, 2)};
}

K_WORLD::WLinearCodesArgs Args(const Problem& p) {
  return {.x = p.x.data(),
          .x_stride = p.x_stride,
          .format = p.w.format,
          .codes = p.w.packed.data(),
          .scales = p.w.packed_scales.data(),
          .y_stride = p.w.out,
          .rows = p.rows,
          .in = p.w.in,
          .out = p.w.out};
}

std::vector<float> Multiply(const Problem& p, WLinearTile tile, KernelStream* stream) {
  DeviceVector<float> y(static_cast<size_t>(p.rows) * p.w.out, -77.0f);
  K_WORLD::WLinearCodesArgs args = Args(p);
  args.y_f32 = y.data();
  K_WORLD::WLinearCodesWithTile(args, tile, stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return {y.begin(), y.end()};
}

std::vector<float> Floats(const DeviceVector<Bf16>& x) { return Widened({x.begin(), x.end()}); }

struct Case {
  int rows;
  int in;
  int out;
};

class WLinearCodesTest : public testing::TestWithParam<std::tuple<WeightFormat, Case>> {};

TEST_P(WLinearCodesTest, EqualsTheReferenceWithTheSameBitsInEverySchedule) {
  const auto [format, shape] = GetParam();
  const auto [rows, in, out] = shape;
  const Problem p = RandomProblem(format, rows, in, out, /*x_padding=*/8);
  const std::vector<float> want = CodesReference(p.w, Floats(p.x), rows, p.x_stride);
  // Columns behind `out` belong to somebody else.
  const int y_stride = out + 3;
  const size_t values = static_cast<size_t>(rows) * y_stride;
  std::vector<std::vector<float>> wide;
  std::vector<std::vector<Bf16>> narrow;
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    DeviceVector<float> y_f32(values, 77.0f);
    DeviceVector<Bf16> y(values, ToBf16(77.0f));
    K_WORLD::WLinearCodesArgs args = Args(p);
    args.y_stride = y_stride;
    args.y_f32 = y_f32.data();
    K_WORLD::WLinearCodes(args, stream.get());
    args.y_f32 = nullptr;
    args.y = y.data();
    K_WORLD::WLinearCodes(args, stream.get());
    ASSERT_EQ(stream.TakeError(), "");
    wide.emplace_back(y_f32.begin(), y_f32.end());
    narrow.emplace_back(y.begin(), y.end());
    EXPECT_TRUE(SameBits(wide.back(), wide[0]));
    EXPECT_TRUE(SameBits(narrow.back(), narrow[0]));
  }
  std::vector<float> got;
  for (int t = 0; t < rows; ++t) {
    for (int n = 0; n < y_stride; ++n) {
      const float y = wide[0][t * y_stride + n];
      EXPECT_EQ(narrow[0][t * y_stride + n].bits, ToBf16(y).bits) << t << " " << n;
      if (n < out) {
        got.push_back(y);
      } else {
        EXPECT_EQ(y, 77.0f) << t << " " << n;
      }
    }
  }
  EXPECT_LE(RelativeError(got, want), kLinearTolerance);
}

// Fewer blocks of k than segments, one each, more; blocks, groups, tiles and passes that are not
// full; more blocks in a segment than are under way at a time.
INSTANTIATE_TEST_SUITE_P(Shapes, WLinearCodesTest,
                         testing::Combine(testing::ValuesIn(kCodeFormats),
                                          testing::Values(Case{1, 8, 1}, Case{1, 512, 16},
                                                          Case{3, 96, 40}, Case{7, 584, 24},
                                                          Case{9, 704, 16}, Case{13, 2816, 17},
                                                          Case{33, 72, 20}, Case{70, 64, 33})),
                         [](const testing::TestParamInfo<std::tuple<WeightFormat, Case>>& info) {
                           const Case& shape = std::get<1>(info.param);
                           return FormatName(std::get<0>(info.param)) + "_" +
                                  std::to_string(shape.rows) + "x" + std::to_string(shape.in) +
                                  "to" + std::to_string(shape.out);
                         });

class WLinearCodesOfFormatTest : public testing::TestWithParam<WeightFormat> {};

INSTANTIATE_TEST_SUITE_P(Formats, WLinearCodesOfFormatTest, testing::ValuesIn(kCodeFormats),
                         [](const testing::TestParamInfo<WeightFormat>& info) {
                           return FormatName(info.param);
                         });

TEST_P(WLinearCodesOfFormatTest, EveryWeightIsItsScaleTimesItsCode) {
  // Given every code of the format, and a row for each k that is 1 there and 0 elsewhere.
  const int in = 136, out = 20;
  Problem p = RandomProblem(GetParam(), in, in, out);
  const int least = p.w.format == WeightFormat::kInt8 ? -127 : -8, codes = 1 - 2 * least;
  for (int n = 0; n < out; ++n) {
    for (int k = 0; k < in; ++k) {
      p.w.Code(n, k) = static_cast<int8_t>(least + (n * in + k) % (least == -8 ? 16 : codes));
    }
  }
  p.w.Pack();
  for (int t = 0; t < in; ++t) {
    for (int k = 0; k < in; ++k) p.x[t * in + k] = ToBf16(t == k ? 1.0f : 0.0f);
  }
  // When they are multiplied.
  KernelStream stream(emu::Schedule{}, /*os_threads=*/2);
  const std::vector<float> y = Multiply(p, {1, 8}, &stream);
  // Then each value is that weight.
  for (int t = 0; t < in; ++t) {
    for (int n = 0; n < out; ++n) EXPECT_EQ(y[t * out + n], p.w.At(n, t)) << n << " " << t;
  }
}

TEST_P(WLinearCodesOfFormatTest, ARowsBitsDependNeitherOnTheTileNorOnTheNumberOfRows) {
  // Given 40 rows, each by itself in the smallest tile.
  const int max_rows = 40, in = 584, out = 40;
  const Problem all = RandomProblem(GetParam(), max_rows, in, out);
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
  for (const WLinearTile tile : K_WORLD::kWLinearCodesTiles) {
    for (int rows = 1; rows <= max_rows; ++rows) {
      Problem some = all;
      some.rows = rows;
      ASSERT_TRUE(
          SameBits(Multiply(some, tile, &stream), {alone.begin(), alone.begin() + rows * out}))
          << rows << " rows, tile " << tile.tiles << "x" << tile.columns;
    }
  }
}

TEST_P(WLinearCodesOfFormatTest, AddsScaledGroupsThenSegmentsInTheCanonicalOrder) {
  // Given one product in each group of 32 k, exact in f32, of magnitudes whose sums are not.
  for (const int in : {64 * 5, 64 * 19 + 40}) {
    const int rows = 3, out = 16;
    Problem p = RandomProblem(GetParam(), rows, in, out);
    const int groups = p.w.groups(), blocks = (in + 63) / 64;
    const auto k_of = [](int q) { return 32 * q + q * 5 % 8; };
    const std::vector<float> random = RandomFloats(groups, 3);
    for (int t = 0; t < rows; ++t) {
      for (int k = 0; k < in; ++k) {
        const int q = k / 32;
        p.x[t * in + k] = ToBf16(k == k_of(q) ? std::ldexp(random[q], (7 * q + t) % 24) : 0.0f);
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
          for (int q = 2 * (blocks * j / 8); q < std::min(2 * (blocks * (j + 1) / 8), groups);
               ++q) {
            const int k = k_of(q);
            const float dot = static_cast<float>(p.w.Code(n, k)) * ToFloat(p.x[t * in + k]);
            segment = std::fma(ToFloat(p.w.scales[n * groups + q]), dot, segment);
          }
          want += segment;
        }
        EXPECT_EQ(y[t * out + n], want) << in << " " << t << " " << n;
      }
    }
  }
}

TEST_P(WLinearCodesOfFormatTest, ARowsBitsDoNotDependOnItsNeighbours) {
  const int rows = 5, in = 192, out = 32;
  Problem p = RandomProblem(GetParam(), rows, in, out);
  KernelStream stream;
  const std::vector<float> before = Multiply(p, {2, 1}, &stream);
  for (int t : {0, 1, 3, 4}) std::fill_n(p.x.begin() + t * in, in, ToBf16(NAN));
  const std::vector<float> after = Multiply(p, {2, 1}, &stream);
  const std::vector<float> kept(before.begin() + 2 * out, before.begin() + 3 * out);
  EXPECT_TRUE(SameBits(kept, {after.begin() + 2 * out, after.begin() + 3 * out}));
  EXPECT_TRUE(std::isnan(after[0]));
}

TEST_P(WLinearCodesOfFormatTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) GTEST_SKIP() << "a device does not count its traffic";
  const int bits = GetParam() == WeightFormat::kInt8 ? 8 : 4;
  for (const WLinearTile tile : K_WORLD::kWLinearCodesTiles) {
    for (const auto& [rows, in, out] : {Case{1, 512, 64}, Case{13, 96, 40}, Case{70, 64, 17}}) {
      const Problem p = RandomProblem(GetParam(), rows, in, out);
      KernelStream stream;
      Multiply(p, tile, &stream);
      const uint64_t row_blocks = (rows + 8 * tile.columns - 1) / (8 * tile.columns);
      const uint64_t output_blocks = (out + 16 * tile.tiles - 1) / (16 * tile.tiles);
      const uint64_t weights = uint64_t{in + 63u} / 64 * 64 * ((out + 15) / 16 * 16);
      const emu::TrafficBytes traffic = stream.TakeTraffic();
      // Emulation counts scales once per lane.
      EXPECT_EQ(traffic.read, (weights * bits / 8 + 4 * weights / 16) * row_blocks +
                                  2u * in * rows * output_blocks);
      EXPECT_EQ(traffic.written, 4u * rows * out);
    }
  }
}

TEST_P(WLinearCodesOfFormatTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::WLinearCodes({.format = GetParam(), .in = 64, .out = 16}, stream.get());
  K_WORLD::WLinearCodesGeglu({.format = GetParam(), .in = 64, .width = 16}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

class WLinearCodesGegluTest : public testing::TestWithParam<std::tuple<WeightFormat, Case>> {};

TEST_P(WLinearCodesGegluTest, EqualsTheReferenceWithTheSameBitsInEveryScheduleAndTile) {
  const auto [format, shape] = GetParam();
  const auto [rows, in, width] = shape;
  const Problem p = RandomProblem(format, rows, in, GateUpRows(width));
  const std::vector<float> x = Floats(p.x);
  std::vector<float> want;
  for (int t = 0; t < rows; ++t) {
    for (int i = 0; i < width; ++i) {
      const int row = i / 16 * 32 + i % 16;
      double gate = 0.0, up = 0.0;
      for (int k = 0; k < in; ++k) {
        gate += double{p.w.At(row, k)} * x[t * in + k];
        up += double{p.w.At(row + 16, k)} * x[t * in + k];
      }
      want.push_back(static_cast<float>(GeluTanhReference(gate) * up));
    }
  }
  const auto run = [&](WLinearTile tile, KernelStream* stream) {
    DeviceVector<Bf16> y(static_cast<size_t>(rows) * width, ToBf16(77.0f));
    K_WORLD::WLinearCodesGegluWithTile({.x = p.x.data(),
                                        .x_stride = p.x_stride,
                                        .format = format,
                                        .codes = p.w.packed.data(),
                                        .scales = p.w.packed_scales.data(),
                                        .y = y.data(),
                                        .y_stride = width,
                                        .rows = rows,
                                        .in = in,
                                        .width = width},
                                       tile, stream->get());
    EXPECT_EQ(stream->TakeError(), "");
    return std::vector<Bf16>(y.begin(), y.end());
  };
  KernelStream first;
  const std::vector<Bf16> got =
      run(K_WORLD::ChooseWLinearTile(rows, GateUpRows(width), true), &first);
  EXPECT_LE(RelativeError(Widened(got), want), kBf16Tolerance);
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    for (const WLinearTile tile : K_WORLD::kWLinearCodesTiles) {
      EXPECT_TRUE(SameBits(run(tile, &stream), got));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, WLinearCodesGegluTest,
                         testing::Combine(testing::ValuesIn(kCodeFormats),
                                          testing::Values(Case{1, 64, 16}, Case{5, 584, 40},
                                                          Case{33, 96, 5})),
                         [](const testing::TestParamInfo<std::tuple<WeightFormat, Case>>& info) {
                           const Case& shape = std::get<1>(info.param);
                           return FormatName(std::get<0>(info.param)) + "_" +
                                  std::to_string(shape.rows) + "x" + std::to_string(shape.in) +
                                  "to" + std::to_string(shape.out);
                         });

}  // namespace
}  // namespace tandem::kernels
