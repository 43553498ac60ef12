// Products with weights of int8 and int4, packed by the backend: bit for bit against the plain
// loops at every level, near the product of what the codes stand for, and the same in any company.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/cpu/code_layout.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/linear_ref.h"
#include "kernels/reference/row_ops_ref.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

struct alignas(64) Line {
  std::byte bytes[64];
};

// A packed matrix of codes.
class CodedMatrix {
 public:
  CodedMatrix(WeightFormat format, int out, int in)
      : view_{.out = out, .in = in, .format = format},
        codes_(PackedCodeBytes(format, out, in) / 64),
        scales_(PackedCodeScales(out, in)) {
    view_.codes = codes_.empty() ? nullptr : codes_[0].bytes;
    view_.scales = scales_.data();
  }
  CodedMatrix(CodedMatrix&&) = default;

  CodeTarget target() {
    return {view_.format, const_cast<std::byte*>(view_.codes), scales_.data()};
  }
  const WeightView& view() const { return view_; }

 private:
  WeightView view_;
  std::vector<Line> codes_;
  std::vector<F16> scales_;
};

// Row-major bf16 of variance 1/in, at an odd address.
struct Dense {
  Dense(int out, int in, uint32_t seed) : bytes(size_t{2} * out * in + 1) {
    const std::vector<float> values =
        RandomFloats(size_t{1} * out * in, seed, in > 0 ? 1.0f / std::sqrt(in) : 1.0f);
    for (size_t i = 0; i < values.size(); ++i) {
      const Bf16 value = ToBf16(values[i]);
      std::memcpy(bytes.data() + 1 + 2 * i, &value, 2);
    }
  }
  const std::byte* data() const { return bytes.data() + 1; }
  std::vector<std::byte> bytes;
};

CodedMatrix Coded(CpuBackend& backend, WeightFormat format, int out, int in, uint32_t seed) {
  CodedMatrix matrix(format, out, in);
  EXPECT_TRUE(PackCodeRows(backend, Dense(out, in, seed).data(), out, in, 0, matrix.target()));
  return matrix;
}

CodedMatrix CodedGateUp(CpuBackend& backend, WeightFormat format, int width, int in,
                        uint32_t seed) {
  CodedMatrix matrix(format, 2 * kTileOutputs * static_cast<int>(PackedTiles(width)), in);
  EXPECT_TRUE(PackCodeGateUp(backend, Dense(width, in, seed).data(),
                             Dense(width, in, seed + 1).data(), width, in, matrix.target()));
  return matrix;
}

// The results of an operation, with room between rows that must stay as it is.
struct Out {
  Out(int rows, int width) : rows(rows), width(width), stride(width + 3) {
    values.assign(size_t{1} * rows * stride, kPoison);
  }
  bool SameBitsAs(const Out& other) const {
    return values.size() == other.values.size() &&
           (values.empty() ||
            std::memcmp(values.data(), other.values.data(), sizeof(float) * values.size()) == 0);
  }
  const float* Row(int t) const { return values.data() + size_t{1} * t * stride; }
  std::vector<float> Tight() const {
    std::vector<float> tight;
    for (int t = 0; t < rows; ++t) tight.insert(tight.end(), Row(t), Row(t) + width);
    return tight;
  }
  int rows, width, stride;
  std::vector<float> values;
};

LinearArgs Args(const std::vector<float>& x, const CodedMatrix& w, Out& y) {
  const WeightView view = w.view();
  return {.x = x.data(),
          .x_stride = view.in,
          .w = view,
          .y = y.values.data(),
          .y_stride = y.stride,
          .rows = y.rows};
}

Out Linear(const CpuBackend& backend, const std::vector<float>& x, const CodedMatrix& w, int rows) {
  Out y(rows, w.view().out);
  CpuOps(backend).linear(CpuOps(backend).backend, Args(x, w, y));
  return y;
}

Out Reference(const std::vector<float>& x, const CodedMatrix& w, int rows, Operands operands) {
  Out y(rows, w.view().out);
  LinearReference(Args(x, w, y), operands);
  return y;
}

class LinearCodesTest : public testing::TestWithParam<std::tuple<CpuIsa, WeightFormat>> {
 protected:
  CpuBackendPtr Backend(int threads) const { return BackendAt(std::get<0>(GetParam()), threads); }
  WeightFormat format() const { return std::get<1>(GetParam()); }
};

INSTANTIATE_TEST_SUITE_P(Levels, LinearCodesTest,
                         testing::Combine(testing::ValuesIn(Levels()),
                                          testing::Values(WeightFormat::kInt8,
                                                          WeightFormat::kInt4)),
                         [](const testing::TestParamInfo<std::tuple<CpuIsa, WeightFormat>>& info) {
                           return std::string(CpuIsaName(std::get<0>(info.param))) +
                                  (std::get<1>(info.param) == WeightFormat::kInt8 ? "_int8"
                                                                                  : "_int4");
                         });

TEST_P(LinearCodesTest, EveryCodeLandsWhereTheLayoutSays) {
  const CpuBackendPtr backend = Backend(2);
  for (int out : {1, 16, 17, 50}) {
    for (int in : {1, 31, 32, 65, 200}) {
      // Given a matrix packed in two parts of any size.
      const Dense dense(out, in, 5);
      CodedMatrix matrix(format(), out, in);
      const int part = out / 3;
      ASSERT_TRUE(PackCodeRows(*backend, dense.data(), part, in, 0, matrix.target()));
      ASSERT_TRUE(PackCodeRows(*backend, dense.data() + size_t{2} * part * in, out - part, in, part,
                               matrix.target()));
      // Then every element is the quantiser's.
      std::vector<int8_t> codes(size_t{kWeightGroup} * WeightGroups(in));
      std::vector<F16> scales(WeightGroups(in));
      for (int n = 0; n < out; ++n) {
        EncodeWeightRow(format(), dense.data() + size_t{2} * n * in, in, codes.data(),
                        scales.data());
        for (int k = 0; k < in; ++k) {
          ASSERT_EQ(CodeAt(matrix.view(), n, k), codes[k]) << n << ", " << k;
          ASSERT_EQ(ScaleAt(matrix.view(), n, k).bits, scales[k / kWeightGroup].bits);
        }
      }
    }
  }
}

TEST_P(LinearCodesTest, AMatrixWithAValueThatIsNotFiniteIsRefused) {
  const CpuBackendPtr backend = Backend(2);
  Dense dense(40, 100, 1);
  const Bf16 infinity = {0x7f80};
  std::memcpy(dense.bytes.data() + 1 + 2 * (39 * 100 + 99), &infinity, 2);
  CodedMatrix matrix(format(), 40, 100);
  EXPECT_FALSE(PackCodeRows(*backend, dense.data(), 40, 100, 0, matrix.target()));
  CodedMatrix gate_up(format(), 96, 100);
  EXPECT_FALSE(
      PackCodeGateUp(*backend, Dense(40, 100, 2).data(), dense.data(), 40, 100, gate_up.target()));
}

struct Shape {
  int rows, out, in;
};

// Every row count of a panel and one past it, tiles, groups and blocks left over, a second k block,
// more rows than a task holds.
std::vector<Shape> Shapes() {
  std::vector<Shape> shapes;
  for (int rows = 1; rows <= 20; ++rows) shapes.push_back({rows, 33, 97});
  for (int in : {0, 1, 31, 32, 33, 63, 64, 65, 128}) shapes.push_back({3, 17, in});
  for (int out : {0, 1, 16, 100}) shapes.push_back({2, out, 70});
  shapes.push_back({0, 48, 64});
  shapes.push_back({600, 40, 9});
  shapes.push_back({1, 100, 1600});
  shapes.push_back({25, 70, 6500});
  return shapes;
}

TEST_P(LinearCodesTest, BitsAreThoseOfThePlainLoops) {
  const CpuBackendPtr backend = Backend(2);
  for (const auto& [rows, out, in] : Shapes()) {
    SCOPED_TRACE(testing::Message() << rows << " rows, " << out << " x " << in);
    const std::vector<float> x = RandomFloats(size_t{1} * rows * in, 1);
    const CodedMatrix w = Coded(*backend, format(), out, in, 2);
    EXPECT_TRUE(Linear(*backend, x, w, rows).SameBitsAs(Reference(x, w, rows, Operands::kInt8)));
  }
}

TEST_P(LinearCodesTest, CostsTheNoiseOfEightBitActivationsAndNoMore) {
  const CpuBackendPtr backend = Backend(2);
  const std::vector<float> x = RandomFloats(40 * 1600, 3);
  const CodedMatrix w = Coded(*backend, format(), 64, 1600, 4);
  const double error = RelativeError(Linear(*backend, x, w, 40).Tight(),
                                     Reference(x, w, 40, Operands::kF32).Tight());
  EXPECT_LT(error, 0.007);
  EXPECT_GT(error, 0.002);
}

TEST_P(LinearCodesTest, GegluEqualsTheReference) {
  const CpuBackendPtr backend = Backend(2);
  for (const auto& [rows, width, in] : Shapes()) {
    SCOPED_TRACE(testing::Message() << rows << " rows, " << width << " x " << in);
    const std::vector<float> x = RandomFloats(size_t{1} * rows * in, 3);
    const CodedMatrix w = CodedGateUp(*backend, format(), width, in, 4);
    Out got(rows, width), want(rows, width);
    LinearGegluArgs args = {.x = x.data(),
                            .x_stride = in,
                            .w = w.view(),
                            .y = got.values.data(),
                            .y_stride = got.stride,
                            .rows = rows,
                            .width = width};
    CpuOps(*backend).linear_geglu(CpuOps(*backend).backend, args);
    args.y = want.values.data();
    LinearGegluReference(args, Operands::kInt8);
    EXPECT_LE(RelativeError(got.Tight(), want.Tight()), 1e-6);
  }
}

TEST_P(LinearCodesTest, ExpertsEqualTheReference) {
  constexpr int kExperts = 4, kDim = 70, kWidth = 40, kRows = 23, kTopK = 2;
  const CpuBackendPtr backend = Backend(2);
  std::vector<CodedMatrix> matrices;
  std::vector<WeightView> gate_up, down;
  for (int e = 0; e < kExperts; ++e) {
    matrices.push_back(CodedGateUp(*backend, format(), kWidth, kDim, 30 + 2 * e));
    gate_up.push_back(matrices.back().view());
    matrices.push_back(Coded(*backend, format(), kDim, kWidth, 50 + e));
    down.push_back(matrices.back().view());
  }
  const std::vector<float> x = RandomFloats(kRows * kDim, 60);
  std::vector<int32_t> ids;
  std::vector<float> weights;
  for (int t = 0; t < kRows; ++t) {
    ids.insert(ids.end(), {t % 2, 2 + t % 2});
    weights.insert(weights.end(), {0.3f, 0.7f});
  }
  std::vector<float> got(kRows * kDim), want(kRows * kDim);
  ExpertsArgs args = {.x = x.data(),
                      .rows = kRows,
                      .dim = kDim,
                      .width = kWidth,
                      .top_k = kTopK,
                      .gate_up = gate_up,
                      .down = down,
                      .ids = ids.data(),
                      .weights = weights.data(),
                      .out = got.data()};
  CpuOps(*backend).experts(CpuOps(*backend).backend, args);
  args.out = want.data();
  ExpertsReference(args, Operands::kInt8);
  // An f32 error between the two products can tip an activation to the next of its 255 codes.
  EXPECT_LE(RelativeError(got, want), 2e-3);
}

TEST_P(LinearCodesTest, RowBitsDependOnNothingButTheRow) {
  constexpr int kRows = 50, kOut = 100, kIn = 3500;
  const std::vector<float> x = RandomFloats(kRows * kIn, 5);
  const CpuBackendPtr alone = Backend(1);
  const CodedMatrix w = Coded(*alone, format(), kOut, kIn, 6);
  for (int threads : {1, 3}) {
    const CpuBackendPtr backend = Backend(threads);
    for (int rows : {2, 4, 5, 6, 7, 13, 50}) {
      const Out together = Linear(*backend, x, w, rows);
      for (int t = 0; t < rows; t += 3) {
        const Out row = Linear(*alone, {x.begin() + t * kIn, x.begin() + (t + 1) * kIn}, w, 1);
        ASSERT_EQ(std::memcmp(together.Row(t), row.Row(0), sizeof(float) * kOut), 0)
            << threads << " threads, row " << t << " of " << rows;
      }
    }
  }
}

TEST_P(LinearCodesTest, EdgesOfActivations) {
  // Given rows of zeros, of values too small to count, of one large value, and of values at the
  // ends of their group's range.
  constexpr int kIn = 100;
  const CpuBackendPtr backend = Backend(1);
  const CodedMatrix w = Coded(*backend, format(), 20, kIn, 7);
  std::vector<float> x(4 * kIn);
  for (int k = 0; k < kIn; ++k) {
    x[kIn + k] = k % 2 == 0 ? 1e-35f : -1e-38f;
    x[2 * kIn + k] = k == 40 ? 3e30f : 1.0f;
    x[3 * kIn + k] = k % 2 == 0 ? 127.0f : -126.5f;
  }
  const Out got = Linear(*backend, x, w, 4);
  EXPECT_TRUE(got.SameBitsAs(Reference(x, w, 4, Operands::kInt8)));
  for (int n = 0; n < 20; ++n) {
    EXPECT_EQ(got.Row(0)[n], 0.0f);
    EXPECT_EQ(got.Row(1)[n], 0.0f);
    EXPECT_TRUE(std::isfinite(got.Row(2)[n]));
  }
}

TEST_P(LinearCodesTest, ARowThatIsNotFiniteStaysSoAndHarmsNobody) {
  constexpr int kIn = 100;
  const CpuBackendPtr backend = Backend(1);
  const CodedMatrix w = Coded(*backend, format(), 20, kIn, 8);
  for (float bad : {kPoison, -kPoison, INFINITY, -INFINITY}) {
    std::vector<float> x = RandomFloats(3 * kIn, 9);
    const Out want = Linear(*backend, x, w, 3);
    x[kIn + 63] = bad;
    const Out got = Linear(*backend, x, w, 3);
    for (int n = 0; n < 20; ++n) {
      EXPECT_EQ(got.Row(0)[n], want.Row(0)[n]);
      EXPECT_TRUE(std::isnan(got.Row(1)[n]));
      EXPECT_EQ(got.Row(2)[n], want.Row(2)[n]);
    }
  }
}

TEST_P(LinearCodesTest, EmbeddingsAreWhatTheCodesStandFor) {
  constexpr int kVocab = 40, kDim = 70;
  const CpuBackendPtr backend = Backend(2);
  const CodedMatrix table = Coded(*backend, format(), kVocab, kDim, 10);
  const std::vector<int32_t> ids = {0, 39, 17, 16, 17};
  std::vector<float> got(ids.size() * kDim), want(got.size());
  EmbedArgs args = {.table = table.view(), .ids = ids, .scale = 1.7f, .out = got.data()};
  CpuOps(*backend).embed(CpuOps(*backend).backend, args);
  args.out = want.data();
  EmbedReference(args);
  EXPECT_EQ(got, want);
  EXPECT_EQ(got[kDim + 69],
            DecodeWeight(ScaleAt(table.view(), 39, 69), CodeAt(table.view(), 39, 69)) * 1.7f);
}

}  // namespace
}  // namespace tandem::kernels
