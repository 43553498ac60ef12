// The row operations of every CPU level against the reference, and the reference against
// gemma4.md 7.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/row_ops_ref.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

using testing::ElementsAre;
using testing::FloatNear;
using testing::Pointwise;

// Lengths around one and four vectors of 8 and 16, and two hidden sizes.
constexpr int kDims[] = {1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 130, 1536, 5376};

class RowOpsTest : public testing::TestWithParam<CpuIsa> {
 protected:
  CpuBackendPtr backend_ = BackendAt(GetParam(), 2);
  const Ops& ops_ = CpuOps(*backend_);
};

INSTANTIATE_TEST_SUITE_P(Levels, RowOpsTest, testing::ValuesIn(Levels()), LevelName);

TEST_P(RowOpsTest, RmsNormEqualsThePublishedNumbers) {
  const std::vector<float> x = {1, 2, 3, 4};
  std::vector<float> y(4);
  ops_.rms_norm(ops_.backend, {.x = x.data(), .y = y.data(), .rows = 1, .dim = 4, .eps = 1e-6f});
  EXPECT_THAT(
      y, Pointwise(FloatNear(2e-7f), {0.365148347f, 0.730296695f, 1.095445042f, 1.460593389f}));
}

TEST_P(RowOpsTest, GeluEqualsThePublishedNumbers) {
  const std::vector<float> x = {-2, -1, -0.5f, 0.5f, 1, 2, 4};
  const std::vector<float> one(7, 1.0f);
  std::vector<float> y(7);
  ops_.gelu_mul(ops_.backend, {.a = x.data(), .b = one.data(), .y = y.data(), .rows = 1, .dim = 7});
  EXPECT_THAT(
      y, Pointwise(FloatNear(4e-7f), {-0.045402306f, -0.158808009f, -0.154285990f, 0.345714010f,
                                      0.841191991f, 1.954597694f, 3.999929754f}));
}

TEST_P(RowOpsTest, SoftcapEqualsThePublishedNumbers) {
  std::vector<float> x = {1, 15, 30, 45, 90, -45};
  ops_.softcap(ops_.backend, {.x = x.data(), .count = 6, .cap = 30.0f});
  EXPECT_THAT(x, Pointwise(FloatNear(4e-6f), {0.999629794f, 13.863514718f, 22.847824679f,
                                              27.154447609f, 29.851642611f, -27.154447609f}));
}

TEST_P(RowOpsTest, RouterEqualsThePublishedNumbers) {
  const std::vector<float> logits = {2, 1, 0.5f, -1}, scale = {1, 0.5f, 2, 1};
  std::vector<int32_t> ids(2);
  std::vector<float> weights(2);
  ops_.route(ops_.backend, {.logits = logits.data(),
                            .rows = 1,
                            .experts = 4,
                            .top_k = 2,
                            .expert_scale = scale.data(),
                            .ids = ids.data(),
                            .weights = weights.data()});
  EXPECT_THAT(ids, ElementsAre(0, 1));
  EXPECT_THAT(weights, Pointwise(FloatNear(1e-7f), {0.731058579f, 0.134470711f}));
}

TEST_P(RowOpsTest, RouterBreaksTiesTowardsTheLowerExpertAndListsIdsAscending) {
  // Given ties across the cut: two of the three 5s are chosen, behind the 7.
  const std::vector<float> logits = {1, 5, 5, 7, 5, 1};
  const std::vector<float> scale(6, 1.0f);
  std::vector<int32_t> ids(3);
  std::vector<float> weights(3);
  ops_.route(ops_.backend, {.logits = logits.data(),
                            .rows = 1,
                            .experts = 6,
                            .top_k = 3,
                            .expert_scale = scale.data(),
                            .ids = ids.data(),
                            .weights = weights.data()});
  EXPECT_THAT(ids, ElementsAre(1, 2, 3));
  EXPECT_FLOAT_EQ(weights[0], weights[1]);
  EXPECT_NEAR(weights[0] + weights[1] + weights[2], 1.0f, 1e-6f);
}

TEST_P(RowOpsTest, RouterNamesDistinctExpertsEvenForNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits = {nan, 1, nan, 2, nan, nan, 3, nan};
  const std::vector<float> scale(4, 1.0f);
  std::vector<int32_t> ids(4);
  std::vector<float> weights(4);
  ops_.route(ops_.backend, {.logits = logits.data(),
                            .rows = 2,
                            .experts = 4,
                            .top_k = 2,
                            .expert_scale = scale.data(),
                            .ids = ids.data(),
                            .weights = weights.data()});
  for (int row = 0; row < 2; ++row) {
    EXPECT_GE(ids[row * 2], 0);
    EXPECT_LT(ids[row * 2], ids[row * 2 + 1]);
    EXPECT_LT(ids[row * 2 + 1], 4);
  }
}

TEST_P(RowOpsTest, RouterEqualsTheReference) {
  const int rows = 33, experts = 128, top_k = 8;
  const std::vector<float> logits = RandomFloats(rows * experts, 1, 3.0f);
  const std::vector<float> scale = RandomFloats(experts, 2);
  std::vector<int32_t> ids(rows * top_k), want_ids(ids);
  std::vector<float> weights(ids.size()), want_weights(ids.size());
  RouteArgs args = {.logits = logits.data(),
                    .rows = rows,
                    .experts = experts,
                    .top_k = top_k,
                    .expert_scale = scale.data(),
                    .ids = want_ids.data(),
                    .weights = want_weights.data()};
  RouteReference(args);
  args.ids = ids.data();
  args.weights = weights.data();
  ops_.route(ops_.backend, args);
  EXPECT_EQ(ids, want_ids);
  EXPECT_LE(RelativeError(weights, want_weights), 1e-6);
}

TEST_P(RowOpsTest, NormsEqualTheReferenceAtAwkwardSizes) {
  for (const int dim : kDims) {
    for (const int rows : {0, 1, 7}) {
      SCOPED_TRACE(testing::Message() << "dim " << dim << " rows " << rows);
      const std::vector<float> x = RandomFloats(rows * dim, dim, 3.0f);
      const std::vector<float> weight = RandomFloats(dim, dim + 1);
      const std::vector<float> h = RandomFloats(rows * dim, dim + 2);

      std::vector<float> y(x.size()), want(x.size());
      RmsNormArgs norm = {.x = x.data(),
                          .weight = weight.data(),
                          .y = want.data(),
                          .rows = rows,
                          .dim = dim,
                          .eps = 1e-6f};
      RmsNormReference(norm);
      norm.y = y.data();
      ops_.rms_norm(ops_.backend, norm);
      EXPECT_LE(RelativeError(y, want), kFloatTolerance);

      std::vector<float> in_place = x;
      norm.x = in_place.data();
      norm.y = in_place.data();
      ops_.rms_norm(ops_.backend, norm);
      EXPECT_EQ(in_place, y);

      std::vector<float> sum = h, want_sum = h;
      const float scale = 0.37f;
      NormAddArgs add = {.a = x.data(),
                         .weight = weight.data(),
                         .h = want_sum.data(),
                         .rows = rows,
                         .dim = dim,
                         .eps = 1e-6f,
                         .scale = &scale};
      NormAddReference(add);
      add.h = sum.data();
      ops_.norm_add(ops_.backend, add);
      EXPECT_LE(RelativeError(sum, want_sum), kFloatTolerance);
    }
  }
}

TEST_P(RowOpsTest, GeluMulAndSoftcapEqualTheReferenceAndWriteNothingElse) {
  for (const int dim : kDims) {
    SCOPED_TRACE(testing::Message() << "dim " << dim);
    const int rows = 3, stride = dim + 5;
    const std::vector<float> a = RandomFloats(rows * stride, dim, 4.0f);
    const std::vector<float> b = RandomFloats(rows * stride, dim + 1);
    std::vector<float> y(rows * stride, 77.0f), want(y);
    GeluMulArgs args = {.a = a.data(),
                        .a_stride = stride,
                        .b = b.data(),
                        .b_stride = stride,
                        .y = want.data(),
                        .y_stride = stride,
                        .rows = rows,
                        .dim = dim};
    GeluMulReference(args);
    args.y = y.data();
    ops_.gelu_mul(ops_.backend, args);
    EXPECT_LE(RelativeError(y, want), 1e-6);
    for (int t = 0; t < rows; ++t) EXPECT_EQ(y[t * stride + dim], 77.0f);

    std::vector<float> x = RandomFloats(dim + 1, dim, 40.0f), want_x = x;
    SoftcapReference({.x = want_x.data(), .count = dim, .cap = 30.0f});
    ops_.softcap(ops_.backend, {.x = x.data(), .count = dim, .cap = 30.0f});
    EXPECT_LE(RelativeError(x, want_x), 1e-6);
    EXPECT_EQ(x[dim], want_x[dim]);
  }
}

TEST_P(RowOpsTest, RopeTableIsExactAtTheLastPosition) {
  const std::vector<int32_t> positions = {0, 1, 511, 131071, 262143};
  const std::vector<float> inv_freq = {1.0f, 0.930572041f, 0.010746078f, 0.000107460783f};
  std::vector<float> cos(positions.size() * 4), sin(cos.size());
  ops_.rope_table(
      ops_.backend,
      {.positions = positions, .inv_freq = inv_freq, .cos = cos.data(), .sin = sin.data()});
  for (size_t t = 0; t < positions.size(); ++t) {
    for (size_t j = 0; j < inv_freq.size(); ++j) {
      const float angle = static_cast<float>(positions[t]) * inv_freq[j];
      EXPECT_NEAR(cos[t * 4 + j], std::cos(double{angle}), 1.2e-7) << t << " " << j;
      EXPECT_NEAR(sin[t * 4 + j], std::sin(double{angle}), 1.2e-7) << t << " " << j;
    }
  }
}

// Packs rows of `table` [vocab, dim] as types.h says.
std::vector<Bf16> Pack(const std::vector<Bf16>& table, int vocab, int dim) {
  std::vector<Bf16> packed(PackedElements(vocab, dim));
  for (int n = 0; n < vocab; ++n) {
    for (int k = 0; k < dim; ++k) {
      packed[((n / 16) * ((dim + 1) / 2) + k / 2) * 32 + n % 16 * 2 + k % 2] = table[n * dim + k];
    }
  }
  return packed;
}

TEST_P(RowOpsTest, EmbedGathersScaledRowsOfThePackedTable) {
  const int vocab = 37;
  for (const int dim : {1, 2, 7, 33, 64}) {
    SCOPED_TRACE(testing::Message() << "dim " << dim);
    std::vector<Bf16> table;
    for (const float x : RandomFloats(vocab * dim, dim)) table.push_back(ToBf16(x));
    const std::vector<Bf16> packed = Pack(table, vocab, dim);
    const std::vector<int32_t> ids = {0, 36, 15, 16, 16, 1};
    std::vector<float> out(ids.size() * dim);
    ops_.embed(ops_.backend, {.table = {.data = packed.data(), .out = vocab, .in = dim},
                              .ids = ids,
                              .scale = 39.25f,
                              .out = out.data()});
    for (size_t t = 0; t < ids.size(); ++t) {
      for (int k = 0; k < dim; ++k) {
        EXPECT_EQ(out[t * dim + k], ToFloat(table[ids[t] * dim + k]) * 39.25f);
      }
    }
  }
}

TEST_P(RowOpsTest, EmbedLeavesTheRestOfAWiderRowAlone) {
  // Given rows twice as wide as the table.
  const int vocab = 20, dim = 33, rows = 3;
  std::vector<Bf16> table;
  for (const float x : RandomFloats(vocab * dim, 1)) table.push_back(ToBf16(x));
  const std::vector<Bf16> packed = Pack(table, vocab, dim);
  const std::vector<int32_t> ids = {19, 0, 7};
  std::vector<float> out(rows * 2 * dim, -7.0f);
  // When embeddings go into the left halves.
  ops_.embed(ops_.backend, {.table = {.data = packed.data(), .out = vocab, .in = dim},
                            .ids = ids,
                            .scale = 2.0f,
                            .out = out.data(),
                            .out_stride = 2 * dim});
  // Then each is where its row begins, and the right halves are as they were.
  for (int t = 0; t < rows; ++t) {
    for (int k = 0; k < dim; ++k) {
      EXPECT_EQ(out[t * 2 * dim + k], ToFloat(table[ids[t] * dim + k]) * 2.0f);
      EXPECT_EQ(out[t * 2 * dim + dim + k], -7.0f);
    }
  }
}

// A per-layer table with distinct values at an odd address, as a mapped file may have it.
struct PleTable {
  PleTable(int rows, int layers, int width) : bytes(size_t{2} * rows * layers * width + 1) {
    uint32_t seed = 9;
    size_t i = 0;
    for (const float x : RandomFloats(size_t{1} * rows * layers * width, seed)) {
      const Bf16 value = ToBf16(x);
      std::memcpy(bytes.data() + 1 + 2 * i++, &value, 2);
    }
  }
  const Bf16* data() const { return reinterpret_cast<const Bf16*>(bytes.data() + 1); }
  float At(size_t i) const {
    Bf16 value;
    std::memcpy(&value, bytes.data() + 1 + 2 * i, 2);
    return ToFloat(value);
  }
  std::vector<std::byte> bytes;
};

TEST_P(RowOpsTest, PleFollowsTheFormulaLayerByLayer) {
  // Given three layers of width 4 and an id outside the table, which reads row 0.
  const int layers = 3, width = 4;
  const PleTable table(5, layers, width);
  const std::vector<int32_t> ids = {4, 262001, -1, 2};
  const std::vector<float> norm = {0.5f, 1.5f, -1.0f, 2.0f};
  const std::vector<float> before = RandomFloats(ids.size() * layers * width, 3);
  std::vector<float> ctx = before;
  // When the inputs are made.
  ops_.ple(ops_.backend, {.ids = ids,
                          .table = table.data(),
                          .table_rows = 5,
                          .norm = norm.data(),
                          .ctx = ctx.data(),
                          .layers = layers,
                          .width = width,
                          .ctx_scale = 0.1f,
                          .table_scale = 2.0f,
                          .out_scale = 0.70710678f,
                          .eps = 1e-6f});
  // Then every element is (norm(ctx * 0.1) + table * 2) / sqrt(2).
  for (size_t t = 0; t < ids.size(); ++t) {
    const int id = ids[t] >= 0 && ids[t] < 5 ? ids[t] : 0;
    for (int l = 0; l < layers; ++l) {
      const float* x = &before[(t * layers + l) * width];
      double mean = 0.0;
      for (int d = 0; d < width; ++d) mean += 0.01 * x[d] * x[d] / width;
      for (int d = 0; d < width; ++d) {
        const double want = (0.1 * x[d] / std::sqrt(mean + 1e-6) * norm[d] +
                             2.0 * table.At((id * layers + l) * width + d)) *
                            0.70710678;
        EXPECT_NEAR(ctx[(t * layers + l) * width + d], want, 2e-6) << t << " " << l << " " << d;
      }
    }
  }
}

TEST_P(RowOpsTest, PleEqualsTheReferenceAtAwkwardWidths) {
  for (const int width : {1, 7, 16, 31, 64, 256}) {
    SCOPED_TRACE(testing::Message() << "width " << width);
    const int layers = 5;
    const PleTable table(11, layers, width);
    const std::vector<int32_t> ids = {3, 0, 10, 10, 12, 7, 1};
    const std::vector<float> norm = RandomFloats(width, 4);
    std::vector<float> ctx = RandomFloats(ids.size() * layers * width, 5), want = ctx;
    PleArgs args = {.ids = ids,
                    .table = table.data(),
                    .table_rows = 11,
                    .norm = norm.data(),
                    .ctx = want.data(),
                    .layers = layers,
                    .width = width,
                    .ctx_scale = 0.025f,
                    .table_scale = 16.0f,
                    .out_scale = 0.70710678f,
                    .eps = 1e-6f};
    PleReference(args);
    args.ctx = ctx.data();
    ops_.ple(ops_.backend, args);
    EXPECT_LE(RelativeError(ctx, want), kFloatTolerance);
  }
}

TEST_P(RowOpsTest, BitsOfARowDependOnTheRowAlone) {
  // Given enough rows that a team of three splits them in many places.
  const int rows = 97, dim = 1537;
  const std::vector<float> x = RandomFloats(rows * dim, 1), weight = RandomFloats(dim, 2);
  const std::vector<float> h = RandomFloats(rows * dim, 3);
  const auto run = [&](const Ops& ops, int begin, int count) {
    std::vector<float> y(count * dim),
        sum(h.begin() + begin * dim, h.begin() + (begin + count) * dim), gelu(count * dim),
        cap(x.begin() + begin * dim, x.begin() + (begin + count) * dim);
    const float* at = x.data() + begin * dim;
    const float scale = 0.5f;
    ops.rms_norm(ops.backend, {at, weight.data(), y.data(), count, dim, 1e-6f});
    ops.norm_add(ops.backend, {at, weight.data(), sum.data(), count, dim, 1e-6f, &scale});
    ops.gelu_mul(ops.backend, {at, dim, at, dim, gelu.data(), dim, count, dim});
    ops.softcap(ops.backend, {cap.data(), int64_t{count} * dim, 2.0f});
    std::vector<float> all = y;
    for (const auto* part : {&sum, &gelu, &cap}) all.insert(all.end(), part->begin(), part->end());
    return all;
  };
  // When all rows run on three threads, and row 41 alone on one.
  const CpuBackendPtr three = BackendAt(GetParam(), 3), one = BackendAt(GetParam(), 1);
  const std::vector<float> batch = run(CpuOps(*three), 0, rows);
  const std::vector<float> alone = run(CpuOps(*one), 41, 1);
  // Then its four results have the same bits.
  for (int op = 0; op < 4; ++op) {
    EXPECT_EQ(std::memcmp(batch.data() + (op * rows + 41) * dim, alone.data() + op * dim,
                          dim * sizeof(float)),
              0)
        << "operation " << op;
  }
  EXPECT_EQ(batch, run(CpuOps(*one), 0, rows));
}

}  // namespace
}  // namespace tandem::kernels
