// linear, linear_clusters and linear_geglu of every CPU level: against the f64 reference, and bit
// for bit against themselves in other company.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/linear_ref.h"
#include "kernels/reference/row_ops_ref.h"
#include "tests/kernels/packed_weights.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

using testing::FloatNear;
using testing::Pointwise;

// f32 sums of up to 1600 terms against f64 ones (kernels.md 11: linear).
constexpr double kLinearTolerance = 1e-6;

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

struct Level {
  CpuIsa isa;
  bool bf16_operands;
};

std::vector<Level> OperandLevels() {
  std::vector<Level> levels;
  for (CpuIsa isa : Levels()) levels.push_back({isa, true});
  if (BestCpuIsa() == CpuIsa::kAvx512Bf16) levels.push_back({CpuIsa::kAvx512Bf16, false});
  return levels;
}

class LinearTest : public testing::TestWithParam<Level> {
 protected:
  CpuBackendPtr Backend(int threads) const {
    absl::StatusOr<CpuBackendPtr> backend = MakeCpuBackend(
        {.threads = threads, .isa = GetParam().isa, .bf16_operands = GetParam().bf16_operands});
    EXPECT_TRUE(backend.ok()) << backend.status();
    return *std::move(backend);
  }

  Operands operands() const {
    return GetParam().isa == CpuIsa::kAvx512Bf16 && GetParam().bf16_operands ? Operands::kBf16
                                                                             : Operands::kF32;
  }
};

INSTANTIATE_TEST_SUITE_P(Levels, LinearTest, testing::ValuesIn(OperandLevels()),
                         [](const testing::TestParamInfo<Level>& info) {
                           return std::string(CpuIsaName(info.param.isa)) +
                                  (info.param.bf16_operands ? "" : "_f32");
                         });

// Rows of `width` values in a matrix of `stride`, NaN between them.
struct Rows {
  Rows(int rows, int width, int stride) : width(width), stride(stride), values(rows * stride) {
    std::fill(values.begin(), values.end(), kPoison);
  }
  static Rows Random(int rows, int width, int stride, uint32_t seed) {
    Rows m(rows, width, stride);
    const std::vector<float> random = RandomFloats(size_t{1} * rows * width, seed);
    for (int t = 0; t < rows; ++t) {
      std::copy_n(random.begin() + t * width, width, m.Row(t));
    }
    return m;
  }
  // One value a row.
  static Rows Column(std::vector<float> values) {
    Rows m(0, 1, 1);
    m.values = std::move(values);
    return m;
  }
  float* Row(int t) { return values.data() + t * stride; }
  const float* Row(int t) const { return values.data() + t * stride; }

  int width;
  int stride;
  std::vector<float> values;
};

std::vector<float> Tight(const Rows& m) {
  std::vector<float> values;
  for (size_t begin = 0; begin < m.values.size(); begin += m.stride) {
    values.insert(values.end(), m.values.begin() + begin, m.values.begin() + begin + m.width);
  }
  return values;
}

bool GapsArePoison(const Rows& m) {
  for (size_t i = 0; i < m.values.size(); ++i) {
    if (static_cast<int>(i % m.stride) >= m.width && !std::isnan(m.values[i])) return false;
  }
  return true;
}

bool SameBits(const float* a, const float* b, int count) {
  return std::memcmp(a, b, sizeof(float) * count) == 0;
}

Rows Linear(const CpuBackend& backend, const Rows& x, const PackedWeights& w, int rows) {
  Rows y(rows, w.view().out, w.view().out + 3);
  const Ops& ops = CpuOps(backend);
  ops.linear(ops.backend, {.x = x.values.data(),
                           .x_stride = x.stride,
                           .w = w.view(),
                           .y = y.values.data(),
                           .y_stride = y.stride,
                           .rows = rows});
  return y;
}

Rows Geglu(const CpuBackend& backend, const Rows& x, const PackedWeights& w, int width, int rows) {
  Rows y(rows, width, width + 3);
  const Ops& ops = CpuOps(backend);
  ops.linear_geglu(ops.backend, {.x = x.values.data(),
                                 .x_stride = x.stride,
                                 .w = w.view(),
                                 .y = y.values.data(),
                                 .y_stride = y.stride,
                                 .rows = rows,
                                 .width = width});
  return y;
}

// `clusters` matrices [size, in], one behind the other; rows past `size` in a cluster's last tile
// are random too, so that one that is read shows.
struct Clusters {
  Clusters(int clusters, int size, int in, uint32_t seed)
      : size(size),
        elements(PackedElements(size, in)),
        packed(PackedWeights::Random(clusters * kTileOutputs * int(PackedTiles(size)), in, seed)) {}

  WeightView view(int cluster) const {
    WeightView w = packed.view();
    return {w.data == nullptr ? nullptr : w.data + cluster * elements, size, w.in};
  }

  int size;
  size_t elements;
  PackedWeights packed;
};

LinearClustersArgs ClusterArgs(const Rows& x, const Clusters& w, const std::vector<int32_t>& ids,
                               Rows& y, int rows) {
  return {.x = x.values.data(),
          .x_stride = x.stride,
          .first = w.view(0),
          .cluster_elements = w.elements,
          .ids = ids.data(),
          .chosen = rows == 0 ? 0 : static_cast<int>(ids.size()) / rows,
          .y = y.values.data(),
          .y_stride = y.stride,
          .rows = rows};
}

// `chosen` different clusters for every row, in no order.
std::vector<int32_t> RandomChoices(int rows, int chosen, int clusters, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> all(clusters), ids;
  std::iota(all.begin(), all.end(), 0);
  for (int t = 0; t < rows; ++t) {
    std::shuffle(all.begin(), all.end(), random);
    ids.insert(ids.end(), all.begin(), all.begin() + chosen);
  }
  return ids;
}

struct Shape {
  int rows, out, in;
};

// Every row count of a panel and one past it, tiles and k pairs left over, a second k block, more
// rows than a task holds.
std::vector<Shape> Shapes() {
  std::vector<Shape> shapes;
  for (int rows = 1; rows <= 40; ++rows) shapes.push_back({rows, 33, 65});
  for (int size : {0, 1, 7, 16, 17}) {
    for (int other : {0, 1, 7, 16, 17}) shapes.push_back({3, size, other});
    shapes.push_back({size, 48, 17});
  }
  shapes.push_back({200, 100, 31});
  shapes.push_back({600, 40, 9});
  shapes.push_back({1, 100, 1600});
  shapes.push_back({17, 100, 1601});
  return shapes;
}

TEST_P(LinearTest, EqualsTheReferenceAtAwkwardShapes) {
  const CpuBackendPtr backend = Backend(2);
  for (const auto& [rows, out, in] : Shapes()) {
    SCOPED_TRACE(testing::Message() << rows << " rows, " << out << " x " << in);
    // Given rows with NaN between them, and weights.
    const Rows x = Rows::Random(rows, in, in + 5, 1);
    const PackedWeights w = PackedWeights::Random(out, in, 2);
    // When they are multiplied.
    const Rows y = Linear(*backend, x, w, rows);
    // Then the products are the reference's, and nothing else was written.
    Rows want(rows, out, out + 3);
    LinearReference({.x = x.values.data(),
                     .x_stride = x.stride,
                     .w = w.view(),
                     .y = want.values.data(),
                     .y_stride = want.stride,
                     .rows = rows},
                    operands());
    EXPECT_LE(RelativeError(Tight(y), Tight(want)), kLinearTolerance);
    EXPECT_TRUE(GapsArePoison(y));
  }
}

TEST_P(LinearTest, GegluEqualsTheReferenceAtAwkwardShapes) {
  const CpuBackendPtr backend = Backend(2);
  for (const auto& [rows, width, in] : Shapes()) {
    SCOPED_TRACE(testing::Message() << rows << " rows, " << width << " x " << in);
    const Rows x = Rows::Random(rows, in, in + 5, 3);
    const PackedWeights w = PackedWeights::RandomGateUp(width, in, 4);
    const Rows y = Geglu(*backend, x, w, width, rows);
    Rows want(rows, width, width + 3);
    LinearGegluReference({.x = x.values.data(),
                          .x_stride = x.stride,
                          .w = w.view(),
                          .y = want.values.data(),
                          .y_stride = want.stride,
                          .rows = rows,
                          .width = width},
                         operands());
    EXPECT_LE(RelativeError(Tight(y), Tight(want)), 2 * kLinearTolerance);
    EXPECT_TRUE(GapsArePoison(y));
  }
}

TEST_P(LinearTest, ClustersEqualTheReferenceAtAwkwardShapes) {
  struct Case {
    int rows, clusters, size, chosen, in;
  };
  const CpuBackendPtr backend = Backend(2);
  const Ops& ops = CpuOps(*backend);
  for (const auto& [rows, clusters, size, chosen, in] :
       {Case{1, 1, 1, 1, 1}, Case{1, 5, 16, 5, 64}, Case{3, 7, 12, 2, 65}, Case{2, 9, 100, 4, 31},
        Case{9, 64, 17, 8, 33}, Case{40, 12, 128, 3, 256}, Case{0, 3, 16, 2, 8},
        Case{2, 3, 16, 0, 8}, Case{1, 40, 128, 32, 1024}}) {
    SCOPED_TRACE(testing::Message() << rows << " rows, " << chosen << " of " << clusters
                                    << " clusters of " << size << " x " << in);
    // Given rows with NaN between them, and a choice of clusters for each.
    const Rows x = Rows::Random(rows, in, in + 5, 11);
    const Clusters w(clusters, size, in, 12);
    const std::vector<int32_t> ids = RandomChoices(rows, chosen, clusters, 13);
    // When they are multiplied.
    Rows y(rows, chosen * size, chosen * size + 3);
    ops.linear_clusters(ops.backend, ClusterArgs(x, w, ids, y, rows));
    // Then the products are the reference's, and nothing else was written.
    Rows want(rows, chosen * size, chosen * size + 3);
    LinearClustersReference(ClusterArgs(x, w, ids, want, rows), operands());
    EXPECT_LE(RelativeError(Tight(y), Tight(want)), kLinearTolerance);
    EXPECT_TRUE(GapsArePoison(y));
  }
}

TEST_P(LinearTest, AClustersBitsAreThoseOfItsOwnProductInAnyCompany) {
  // Given rows that choose some clusters of a size that is no multiple of a tile.
  constexpr int kRows = 11, kClusters = 20, kSize = 70, kChosen = 6, kIn = 257;
  const Rows x = Rows::Random(kRows, kIn, kIn, 14);
  const Clusters w(kClusters, kSize, kIn, 15);
  const std::vector<int32_t> ids = RandomChoices(kRows, kChosen, kClusters, 16);
  for (const int threads : {1, 2, 5}) {
    const CpuBackendPtr backend = Backend(threads);
    const Ops& ops = CpuOps(*backend);
    Rows y(kRows, kChosen * kSize, kChosen * kSize);
    // When all are multiplied at once.
    ops.linear_clusters(ops.backend, ClusterArgs(x, w, ids, y, kRows));
    // Then each value has the bits that the row alone gets from the cluster alone.
    for (int t = 0; t < kRows; ++t) {
      for (int j = 0; j < kChosen; ++j) {
        std::vector<float> alone(kSize);
        ops.linear(ops.backend, {.x = x.Row(t),
                                 .x_stride = kIn,
                                 .w = w.view(ids[t * kChosen + j]),
                                 .y = alone.data(),
                                 .y_stride = kSize,
                                 .rows = 1});
        ASSERT_TRUE(SameBits(y.Row(t) + j * kSize, alone.data(), kSize))
            << threads << " threads, row " << t << ", choice " << j;
      }
    }
  }
}

TEST_P(LinearTest, F32OperandsKeepActivationsWhole) {
  // Given an activation that bf16 can not hold.
  const CpuBackendPtr backend = Backend(1);
  const float x = 1.0f + 0x1p-20f;
  PackedWeights w(1, 1);
  w.At(0, 0) = ToBf16(1.0f);
  // When it is multiplied with f32 operands asked for.
  float y = 0.0f;
  const Ops& ops = CpuOps(*backend);
  ops.linear(ops.backend, {.x = &x,
                           .x_stride = 1,
                           .w = w.view(),
                           .y = &y,
                           .y_stride = 1,
                           .rows = 1,
                           .f32_operands = true});
  // Then it arrives whole.
  EXPECT_EQ(y, x);
}

TEST_P(LinearTest, ActivationsAreRoundedToNearestEvenWhereOperandsAreBf16) {
  // Given values between two bf16 neighbours: below, on and above the middle.
  const CpuBackendPtr backend = Backend(1);
  const std::vector<float> values = {1.0f + 0x1.8p-9f, 1.0f + 0x1p-8f, 1.0f + 0x1.8p-8f,
                                     1.0f + 0x1.8p-7f, -1.0f - 0x1.8p-7f};
  PackedWeights w(1, 1);
  w.At(0, 0) = ToBf16(1.0f);
  // When they are multiplied by one.
  const Rows y = Linear(*backend, Rows::Column(values), w, static_cast<int>(values.size()));
  // Then they arrive rounded once, ties to even, or whole.
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(y.Row(static_cast<int>(i))[0],
              operands() == Operands::kBf16 ? ToFloat(ToBf16(values[i])) : values[i]);
  }
}

TEST_P(LinearTest, RowBitsDependOnNothingButTheRow) {
  // Given rows, and each row's products when it is alone on one thread.
  constexpr int kRows = 120, kOut = 100, kIn = 1601;
  const Rows x = Rows::Random(kRows, kIn, kIn, 5);
  const PackedWeights w = PackedWeights::Random(kOut, kIn, 6);
  const CpuBackendPtr alone = Backend(1);
  Rows want(kRows, kOut, kOut);
  for (int t = 0; t < kRows; ++t) {
    Rows row(1, kIn, kIn);
    std::memcpy(row.Row(0), x.Row(t), sizeof(float) * kIn);
    std::memcpy(want.Row(t), Linear(*alone, row, w, 1).Row(0), sizeof(float) * kOut);
  }
  for (int threads : {1, 2, 5}) {
    const CpuBackendPtr backend = Backend(threads);
    for (int rows : {2, 6, 7, 13, 14, 15, 16, 29, 56, 120}) {
      SCOPED_TRACE(testing::Message() << threads << " threads, " << rows << " rows");
      // When it is among others, in reverse order.
      Rows reversed(rows, kIn, kIn);
      for (int t = 0; t < rows; ++t) {
        std::memcpy(reversed.Row(t), x.Row(rows - 1 - t), sizeof(float) * kIn);
      }
      const Rows y = Linear(*backend, reversed, w, rows);
      // Then its bits are the same.
      for (int t = 0; t < rows; ++t) {
        ASSERT_TRUE(SameBits(y.Row(t), want.Row(rows - 1 - t), kOut)) << "row " << t;
      }
    }
  }
}

TEST_P(LinearTest, GegluRowBitsDependOnNothingButTheRow) {
  constexpr int kRows = 61, kWidth = 55, kIn = 1700;
  const Rows x = Rows::Random(kRows, kIn, kIn, 7);
  const PackedWeights w = PackedWeights::RandomGateUp(kWidth, kIn, 8);
  const CpuBackendPtr one = Backend(1);
  const CpuBackendPtr three = Backend(3);
  const Rows together = Geglu(*three, x, w, kWidth, kRows);
  for (int t = 0; t < kRows; ++t) {
    Rows row(1, kIn, kIn);
    std::memcpy(row.Row(0), x.Row(t), sizeof(float) * kIn);
    ASSERT_TRUE(SameBits(Geglu(*one, row, w, kWidth, 1).Row(0), together.Row(t), kWidth))
        << "row " << t;
  }
}

TEST_P(LinearTest, OutputBitsDoNotDependOnThePlaceInTheMatrix) {
  // Given a weight row that occurs at every place of three tiles.
  constexpr int kOut = 45, kIn = 33;
  PackedWeights w = PackedWeights::Random(kOut, kIn, 9);
  for (int n = 1; n < kOut; ++n) {
    for (int k = 0; k < kIn; ++k) w.At(n, k) = w.At(0, k);
  }
  const CpuBackendPtr backend = Backend(2);
  const Rows y = Linear(*backend, Rows::Random(17, kIn, kIn, 10), w, 17);
  // Then it gives the same bits at each of them.
  for (int t = 0; t < 17; ++t) {
    for (int n = 1; n < kOut; ++n) ASSERT_TRUE(SameBits(y.Row(t), y.Row(t) + n, 1)) << n;
  }
}

TEST_P(LinearTest, GeluEqualsThePublishedNumbers) {
  // Given gates of gemma4.md 7 and ups of 1.
  const std::vector<float> gates = {-2, -1, -0.5f, 0.5f, 1, 2, 4};
  PackedWeights w(32, 1);
  for (int i = 0; i < 7; ++i) {
    w.Gate(i, 0) = ToBf16(gates[i]);
    w.Up(i, 0) = ToBf16(1.0f);
  }
  const Rows x = Rows::Column({1.0f});
  EXPECT_THAT(
      Tight(Geglu(*Backend(1), x, w, 7, 1)),
      Pointwise(FloatNear(4e-7f), {-0.045402306f, -0.158808009f, -0.154285990f, 0.345714010f,
                                   0.841191991f, 1.954597694f, 3.999929754f}));
}

TEST_P(LinearTest, GeluIsWithinTwoUlpForEveryBf16Gate) {
  // Given every finite bf16 as a gate, and ups of 1.
  std::vector<Bf16> gates;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Bf16 gate{static_cast<uint16_t>(bits)};
    // vdpbf16ps takes subnormals as 0.
    if (std::isnormal(ToFloat(gate))) gates.push_back(gate);
  }
  const int width = static_cast<int>(gates.size());
  PackedWeights w(2 * 16 * static_cast<int>(PackedTiles(width)), 1);
  for (int i = 0; i < width; ++i) {
    w.Gate(i, 0) = gates[i];
    w.Up(i, 0) = ToBf16(1.0f);
  }
  const Rows x = Rows::Column({1.0f});
  const Rows y = Geglu(*Backend(1), x, w, width, 1);
  for (int i = 0; i < width; ++i) {
    const double want = GeluTanhReference(ToFloat(gates[i]));
    // Results under 1e-37 may become 0.
    ASSERT_NEAR(y.Row(0)[i], want, 2e-7 * std::abs(want) + 1e-37) << ToFloat(gates[i]);
  }
}

}  // namespace
}  // namespace tandem::kernels
