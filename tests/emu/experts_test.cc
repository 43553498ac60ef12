// The routed experts on CUDA under emulation: against the reference, and bit by bit against the
// linear layers that they are made of.
#include "kernels/cuda/experts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/expert_sort.h"
#include "kernels/cuda/p_linear.h"
#include "kernels/cuda/w_linear.h"
#include "kernels/cuda/w_linear_codes.h"
#include "kernels/cuda/w_linear_pack.h"
#include "kernels/reference/linear_ref.h"
#include "tests/emu/code_matrix.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/linear_problem.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

// Who chooses whom.
enum class Choice {
  kRandom,
  kSame,  // all rows the lowest experts
};

struct Shape {
  int rows;
  int dim;
  int width;
  int experts;
  int top_k;
};

std::vector<int32_t> Ids(const Shape& s, Choice choice) {
  std::mt19937 random(11);
  std::vector<int32_t> all(s.experts), ids;
  std::iota(all.begin(), all.end(), 0);
  for (int t = 0; t < s.rows; ++t) {
    if (choice == Choice::kRandom) std::shuffle(all.begin(), all.end(), random);
    std::vector<int32_t> row(all.begin(), all.begin() + s.top_k);
    std::sort(row.begin(), row.end());
    ids.insert(ids.end(), row.begin(), row.end());
  }
  return ids;
}

// bf16 matrices of all experts, gate_up and down with some values between two of them.
struct Problem {
  Shape shape;
  int x_stride;
  int gate_up_stride;
  int down_stride;
  DeviceVector<Bf16> x;
  DeviceVector<Bf16> gate_up;
  DeviceVector<Bf16> down;
  DeviceVector<int32_t> ids;
  DeviceVector<float> weights;

  K_WORLD::ExpertsArgs args() const {
    return {.x = x.data(),
            .x_stride = x_stride,
            .gate_up = {.w = gate_up.data(), .stride = gate_up_stride},
            .down = {.w = down.data(), .stride = down_stride},
            .ids = ids.data(),
            .weights = weights.data(),
            .rows = shape.rows,
            .dim = shape.dim,
            .width = shape.width,
            .experts = shape.experts,
            .top_k = shape.top_k};
  }
};

Problem ProblemOf(const Shape& s, Choice choice = Choice::kRandom) {
  const int gate_up_rows = GateUpRows(s.width);
  Problem p = {s, s.dim + 8, gate_up_rows * s.dim + 16, s.dim * s.width + 8, {}, {}, {}, {}, {}};
  p.x = OnDevice(RandomBf16(static_cast<size_t>(s.rows) * p.x_stride, 1));
  p.ids = OnDevice(Ids(s, choice));
  p.weights = OnDevice(RandomFloats(p.ids.size(), 2));
  p.gate_up.assign(static_cast<size_t>(s.experts) * p.gate_up_stride, ToBf16(NAN));
  const float gate_scale = 1.0f / std::sqrt(static_cast<float>(s.dim));
  for (int e = 0; e < s.experts; ++e) {
    const std::vector<Bf16> gate = RandomBf16(s.width * s.dim, 100 + e, gate_scale);
    const std::vector<Bf16> up = RandomBf16(s.width * s.dim, 200 + e, gate_scale);
    InterleaveGateUp(gate.data(), up.data(), s.width, s.dim,
                     p.gate_up.data() + int64_t{e} * p.gate_up_stride);
  }
  p.down = OnDevice(RandomBf16(static_cast<size_t>(s.experts) * p.down_stride, 3,
                               1.0f / std::sqrt(static_cast<float>(s.width))));
  return p;
}

// The rows of p in `rows`, in that order.
Problem RowsOf(const Problem& p, const std::vector<int>& rows) {
  Problem some = p;
  some.shape.rows = static_cast<int>(rows.size());
  some.x.clear();
  some.ids.clear();
  some.weights.clear();
  const int top_k = p.shape.top_k;
  for (const int t : rows) {
    some.x.insert(some.x.end(), p.x.begin() + t * p.x_stride, p.x.begin() + (t + 1) * p.x_stride);
    some.ids.insert(some.ids.end(), p.ids.begin() + t * top_k, p.ids.begin() + (t + 1) * top_k);
    some.weights.insert(some.weights.end(), p.weights.begin() + t * top_k,
                        p.weights.begin() + (t + 1) * top_k);
  }
  return some;
}

std::vector<float> OutputOf(K_WORLD::ExpertsArgs args, KernelStream* stream) {
  const size_t bytes =
      K_WORLD::ExpertsWorkspaceBytes(args.rows, args.dim, args.width, args.experts, args.top_k);
  DeviceVector<float> workspace(bytes / sizeof(float), NAN);
  DeviceVector<float> out(static_cast<size_t>(args.rows) * args.dim, NAN);
  args.out = out.data();
  K_WORLD::Experts(args, workspace.data(), stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return {out.begin(), out.end()};
}

std::vector<float> Row(const std::vector<float>& out, int row, int dim) {
  return {out.begin() + row * dim, out.begin() + (row + 1) * dim};
}

std::vector<float> Reference(const Problem& p) {
  const Shape& s = p.shape;
  std::vector<PackedWeights> packed;
  std::vector<WeightView> gate_up, down;
  for (int e = 0; e < s.experts; ++e) {
    const auto first_gate = p.gate_up.begin() + int64_t{e} * p.gate_up_stride;
    const auto first_down = p.down.begin() + int64_t{e} * p.down_stride;
    const int gate_up_rows = GateUpRows(s.width);
    packed.push_back(Packed({first_gate, first_gate + gate_up_rows * s.dim}, gate_up_rows, s.dim));
    gate_up.push_back(packed.back().view());
    packed.push_back(Packed({first_down, first_down + s.dim * s.width}, s.dim, s.width));
    down.push_back(packed.back().view());
  }
  std::vector<float> x;
  for (int t = 0; t < s.rows; ++t) {
    for (int k = 0; k < s.dim; ++k) x.push_back(ToFloat(p.x[t * p.x_stride + k]));
  }
  std::vector<float> out(static_cast<size_t>(s.rows) * s.dim);
  kernels::ExpertsArgs args;
  args.x = x.data();
  args.rows = s.rows;
  args.dim = s.dim;
  args.width = s.width;
  args.top_k = s.top_k;
  args.gate_up = gate_up;
  args.down = down;
  args.ids = p.ids.data();
  args.weights = p.weights.data();
  args.out = out.data();
  ExpertsReference(args, Operands::kBf16);
  return out;
}

struct Case {
  Shape shape;
  Choice choice;
};

class ExpertsTest : public testing::TestWithParam<Case> {};

TEST_P(ExpertsTest, EqualsTheReferenceWithTheSameBitsInEverySchedule) {
  const Problem p = ProblemOf(GetParam().shape, GetParam().choice);
  const std::vector<float> want = Reference(p);
  for (const bool prompt : {false, true}) {
    K_WORLD::ExpertsArgs args = p.args();
    args.prompt = prompt;
    std::vector<std::vector<float>> results;
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule, /*os_threads=*/2);
      results.push_back(OutputOf(args, &stream));
    }
    // No value between the products is rounded to another bf16 than the reference's here.
    EXPECT_LE(RelativeError(results[0], want), kFloatTolerance) << prompt;
    EXPECT_TRUE(SameBits(results[1], results[0])) << prompt;
    EXPECT_TRUE(SameBits(results[2], results[0])) << prompt;
  }
}

// One row; the golden models with tiles of every size; all rows to the same experts, which leaves
// the others empty; widths that fill neither 16 nor 64; more experts than pairs; 26B-A4B's
// matrices.
INSTANTIATE_TEST_SUITE_P(Shapes, ExpertsTest,
                         testing::Values(Case{{1, 64, 32, 8, 3}, Choice::kRandom},
                                         Case{{10, 64, 32, 8, 3}, Choice::kRandom},
                                         Case{{21, 64, 32, 8, 3}, Choice::kRandom},
                                         Case{{37, 64, 32, 8, 3}, Choice::kRandom},
                                         Case{{37, 64, 32, 8, 3}, Choice::kSame},
                                         Case{{5, 72, 8, 3, 1}, Choice::kSame},
                                         Case{{3, 200, 40, 20, 4}, Choice::kRandom},
                                         Case{{4, 96, 88, 2, 2}, Choice::kRandom},
                                         Case{{1, 2816, 704, 1, 1}, Choice::kRandom}),
                         [](const testing::TestParamInfo<Case>& info) {
                           const Shape& s = info.param.shape;
                           return std::to_string(s.rows) + "x" + std::to_string(s.dim) + "x" +
                                  std::to_string(s.width) + "by" + std::to_string(s.top_k) + "of" +
                                  std::to_string(s.experts) +
                                  (info.param.choice == Choice::kSame ? "Same" : "");
                         });

// What a row is made of, each expert by itself: GeGLU, down, and one fused multiply-add after the
// other.
template <typename GateUp, typename Down>
std::vector<float> Composed(const Problem& p, GateUp&& gate_up, Down&& down) {
  const Shape& s = p.shape;
  std::vector<float> out;
  DeviceVector<Bf16> hidden(s.width);
  DeviceVector<float> y(s.dim);
  for (int t = 0; t < s.rows; ++t) {
    std::vector<float> sum(s.dim, 0.0f);
    for (int j = 0; j < s.top_k; ++j) {
      const int pair = t * s.top_k + j;
      gate_up(p.ids[pair], p.x.data() + t * p.x_stride, hidden.data());
      down(p.ids[pair], hidden.data(), y.data());
      for (int d = 0; d < s.dim; ++d) sum[d] = std::fma(p.weights[pair], y[d], sum[d]);
    }
    out.insert(out.end(), sum.begin(), sum.end());
  }
  return out;
}

TEST(ExpertsBitsTest, AreThoseOfTheLinearLayersAndOfOneSumInAscendingOrder) {
  const Shape s = {19, 136, 40, 4, 3};
  const Problem p = ProblemOf(s);
  KernelStream stream;
  for (const bool prompt : {false, true}) {
    const auto gate_up = [&](int expert, const Bf16* x, Bf16* hidden) {
      const auto linear = prompt ? K_WORLD::PLinearGeglu : K_WORLD::WLinearGeglu;
      linear({.x = x,
              .x_stride = s.dim,
              .w = p.gate_up.data() + int64_t{expert} * p.gate_up_stride,
              .y = hidden,
              .y_stride = s.width,
              .rows = 1,
              .in = s.dim,
              .width = s.width},
             stream.get());
      EXPECT_EQ(stream.TakeError(), "");
    };
    const auto down = [&](int expert, const Bf16* hidden, float* y) {
      const auto linear = prompt ? K_WORLD::PLinear : K_WORLD::WLinear;
      linear({.x = hidden,
              .x_stride = s.width,
              .w = p.down.data() + int64_t{expert} * p.down_stride,
              .y_f32 = y,
              .y_stride = s.dim,
              .rows = 1,
              .in = s.width,
              .out = s.dim},
             stream.get());
      EXPECT_EQ(stream.TakeError(), "");
    };
    const std::vector<float> want = Composed(p, gate_up, down);
    K_WORLD::ExpertsArgs args = p.args();
    args.prompt = prompt;
    EXPECT_TRUE(SameBits(OutputOf(args, &stream), want)) << prompt;
  }
}

TEST(ExpertsBitsTest, OfARowDoNotDependOnTheOthers) {
  // Given 100 rows, of which 16 each by itself.
  const Shape s = {100, 64, 24, 6, 2};
  const int num_alone = 16;
  const Problem all = ProblemOf(s);
  KernelStream stream({}, /*os_threads=*/2);
  for (const bool prompt : {false, true}) {
    const auto run = [&](const std::vector<int>& rows) {
      const Problem some = RowsOf(all, rows);
      K_WORLD::ExpertsArgs args = some.args();
      args.prompt = prompt;
      return OutputOf(args, &stream);
    };
    std::vector<std::vector<float>> alone;
    for (int t = 0; t < num_alone; ++t) alone.push_back(run({t}));
    // When some of them run together with others, in tiles of each size.
    for (const int rows : {2, 12, 13, 24, 25, 37, 96, 100}) {
      std::vector<int> order(s.rows);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), std::mt19937(rows));
      order.resize(rows);
      order[0] = 3;
      const std::vector<float> together = run(order);
      // Then each has its bits.
      for (int i = 0; i < rows; ++i) {
        if (order[i] >= num_alone) continue;
        EXPECT_TRUE(SameBits(Row(together, i, s.dim), alone[order[i]])) << prompt << " " << rows;
      }
    }
  }
}

TEST(ExpertsBitsTest, OfARowDoNotDependOnNeighboursThatAreNotNumbers) {
  const Shape s = {5, 64, 32, 3, 2};
  Problem p = ProblemOf(s, Choice::kSame);
  KernelStream stream;
  const std::vector<float> before = OutputOf(p.args(), &stream);
  for (const int t : {0, 1, 3, 4}) std::fill_n(p.x.begin() + t * p.x_stride, s.dim, ToBf16(NAN));
  const std::vector<float> after = OutputOf(p.args(), &stream);
  EXPECT_TRUE(SameBits(Row(after, 2, s.dim), Row(before, 2, s.dim)));
  EXPECT_TRUE(std::isnan(after[0]));
}

TEST(ExpertsBitsTest, AreTheSameInEveryPass) {
  // Given one row more than a pass has, the last one like the first.
  const Shape s = {K_WORLD::kExpertsPassRows + 1, 8, 8, 2, 1};
  Problem p = ProblemOf(s);
  std::copy_n(p.x.begin(), p.x_stride, p.x.end() - p.x_stride);
  p.ids.back() = p.ids.front();
  p.weights.back() = p.weights.front();
  // When all rows run.
  KernelStream stream({}, /*os_threads=*/2);
  const std::vector<float> out = OutputOf(p.args(), &stream);
  // Then they are right, and both are the same.
  EXPECT_LE(RelativeError(out, Reference(p)), kFloatTolerance);
  EXPECT_TRUE(SameBits(Row(out, s.rows - 1, s.dim), Row(out, 0, s.dim)));
  EXPECT_EQ(K_WORLD::ExpertsWorkspaceBytes(s.rows, s.dim, s.width, s.experts, s.top_k),
            K_WORLD::ExpertsWorkspaceBytes(s.rows - 1, s.dim, s.width, s.experts, s.top_k));
}

// A matrix of random codes for each expert, with some bytes between two of them.
struct CodedMatrices {
  DeviceVector<std::byte> codes;
  DeviceVector<F16> scales;
  K_WORLD::ExpertMatrices view;

  CodedMatrices(WeightFormat format, int experts, int out, int in, uint32_t seed) {
    for (int e = 0; e < experts; ++e) {
      const CodeMatrix m = RandomCodes(format, out, in, seed + e);
      codes.insert(codes.end(), m.packed.begin(), m.packed.end());
      codes.insert(codes.end(), 16, std::byte{0xff});
      scales.insert(scales.end(), m.packed_scales.begin(), m.packed_scales.end());
      scales.insert(scales.end(), 8, F16{0xffff});
    }
    view = {.format = format,
            .codes = codes.data(),
            .scales = scales.data(),
            .stride = static_cast<int64_t>(codes.size()) / experts,
            .scale_stride = static_cast<int64_t>(scales.size()) / experts};
  }
  const std::byte* Codes(int expert) const { return view.codes + expert * view.stride; }
  const F16* Scales(int expert) const { return view.scales + expert * view.scale_stride; }
};

class CodedExpertsTest : public testing::TestWithParam<WeightFormat> {};

TEST_P(CodedExpertsTest, HaveTheBitsOfTheLinearLayers) {
  for (const Shape s : {Shape{1, 64, 32, 8, 3}, Shape{9, 136, 40, 2, 2}, Shape{29, 72, 8, 3, 2}}) {
    const Problem p = ProblemOf(s);
    const CodedMatrices gate_up(GetParam(), s.experts, GateUpRows(s.width), s.dim, 300);
    const CodedMatrices down(GetParam(), s.experts, s.dim, s.width, 400);
    KernelStream stream;
    const auto run_gate_up = [&](int expert, const Bf16* x, Bf16* hidden) {
      K_WORLD::WLinearCodesGeglu({.x = x,
                                  .x_stride = s.dim,
                                  .format = GetParam(),
                                  .codes = gate_up.Codes(expert),
                                  .scales = gate_up.Scales(expert),
                                  .y = hidden,
                                  .y_stride = s.width,
                                  .rows = 1,
                                  .in = s.dim,
                                  .width = s.width},
                                 stream.get());
      EXPECT_EQ(stream.TakeError(), "");
    };
    const auto run_down = [&](int expert, const Bf16* hidden, float* y) {
      K_WORLD::WLinearCodes({.x = hidden,
                             .x_stride = s.width,
                             .format = GetParam(),
                             .codes = down.Codes(expert),
                             .scales = down.Scales(expert),
                             .y_f32 = y,
                             .y_stride = s.dim,
                             .rows = 1,
                             .in = s.width,
                             .out = s.dim},
                            stream.get());
      EXPECT_EQ(stream.TakeError(), "");
    };
    const std::vector<float> want = Composed(p, run_gate_up, run_down);
    K_WORLD::ExpertsArgs args = p.args();
    args.gate_up = gate_up.view;
    args.down = down.view;
    args.prompt = s.rows > 1;  // makes no difference
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream scheduled(schedule, /*os_threads=*/2);
      EXPECT_TRUE(SameBits(OutputOf(args, &scheduled), want)) << s.rows;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CodedExpertsTest, testing::ValuesIn(kCodeFormats),
                         [](const testing::TestParamInfo<WeightFormat>& info) {
                           return FormatName(info.param);
                         });

// How the blocks of a class and size of tile divide the work.
struct Blocks {
  bool prompt;
  uint64_t tile_rows;
  uint64_t outputs;
  uint64_t threads;
};

TEST(ExpertsTrafficTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) GTEST_SKIP() << "a device does not count";
  const std::pair<Shape, Blocks> cases[] = {
      {{1, 512, 64, 8, 3}, {false, 8, 32, 256}},  {{12, 136, 40, 4, 2}, {false, 16, 32, 256}},
      {{30, 64, 32, 3, 2}, {false, 32, 32, 256}}, {{9, 136, 40, 4, 2}, {true, 16, 64, 64}},
      {{30, 136, 40, 3, 2}, {true, 64, 64, 128}}, {{70, 64, 32, 3, 2}, {true, 128, 128, 128}}};
  for (const auto& [s, blocks] : cases) {
    const Problem p = ProblemOf(s);
    K_WORLD::ExpertsArgs args = p.args();
    args.prompt = blocks.prompt;
    KernelStream stream;
    OutputOf(args, &stream);
    const emu::TrafficBytes traffic = stream.TakeTraffic();
    const uint64_t pairs = p.ids.size(), dim = s.dim, width = s.width;
    uint64_t tiles = 0;
    for (int e = 0; e < s.experts; ++e) {
      const uint64_t chosen = std::count(p.ids.begin(), p.ids.end(), e);
      tiles += (chosen + blocks.tile_rows - 1) / blocks.tile_rows;
    }
    const uint64_t gate_up_rows = GateUpRows(s.width);
    const uint64_t gate_up_blocks = (gate_up_rows + blocks.outputs - 1) / blocks.outputs;
    const uint64_t down_blocks = (dim + blocks.outputs - 1) / blocks.outputs;
    const uint64_t weights = 2 * tiles * (gate_up_rows * dim + dim * width);
    const uint64_t rows = pairs * (2 * dim * gate_up_blocks + 2 * width * down_blocks);
    const uint64_t sort = 8 * pairs * s.experts;
    const uint64_t launched = K_WORLD::MaxExpertTiles(pairs, s.experts, blocks.tile_rows) *
                              (gate_up_blocks + down_blocks);
    const uint64_t places = blocks.prompt ? pairs * (16 * gate_up_blocks + 32 * down_blocks)
                                          : pairs * (128 * gate_up_blocks + 4 * down_blocks);
    const uint64_t combine = 4 * pairs * dim + 4 * pairs;
    EXPECT_EQ(traffic.read,
              weights + rows + sort + 20 * blocks.threads * launched + places + combine)
        << s.rows << " " << blocks.prompt;
    EXPECT_EQ(traffic.written,
              4 * pairs + 16 * tiles + 4 + 2 * pairs * width + 4 * pairs * dim + 4 * s.rows * dim)
        << s.rows << " " << blocks.prompt;
  }
}

TEST(ExpertsShapesTest, ShapesWithoutAKernelAreTold) {
  EXPECT_TRUE(K_WORLD::ExpertsSupports(2816, 704, 128, 8));
  EXPECT_TRUE(K_WORLD::ExpertsSupports(64, 32, 8, 3));
  EXPECT_FALSE(K_WORLD::ExpertsSupports(2812, 704, 128, 8));
  EXPECT_FALSE(K_WORLD::ExpertsSupports(2816, 700, 128, 8));
  EXPECT_FALSE(K_WORLD::ExpertsSupports(2816, 704, 2048, 8));
  EXPECT_FALSE(K_WORLD::ExpertsSupports(2816, 704, 128, 33));
}

TEST(ExpertsShapesTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::Experts({.dim = 64, .width = 32, .experts = 8, .top_k = 3}, nullptr, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
