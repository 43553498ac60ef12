// The routed experts of every CPU level: against the f64 reference, and bit for bit against
// themselves in other company.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/linear_ref.h"
#include "tests/kernels/packed_weights.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

constexpr int kDim = 70;
constexpr int kWidth = 37;
constexpr int kExperts = 9;

// Weights of all experts; views of those that nobody may read are null.
struct Layer {
  Layer() {
    for (int e = 0; e < kExperts; ++e) {
      gate_up_weights.push_back(PackedWeights::RandomGateUp(kWidth, kDim, 20 + e));
      down_weights.push_back(PackedWeights::Random(kDim, kWidth, 40 + e));
      gate_up.push_back(gate_up_weights[e].view());
      down.push_back(down_weights[e].view());
    }
  }
  void Remove(int expert) { gate_up[expert].data = down[expert].data = nullptr; }

  std::vector<PackedWeights> gate_up_weights, down_weights;
  std::vector<WeightView> gate_up, down;
};

struct Batch {
  int rows = 0;
  int top_k = 0;
  std::vector<float> x = {};        // [rows, kDim]
  std::vector<int32_t> ids = {};    // [rows, top_k], ascending in a row
  std::vector<float> weights = {};  // [rows, top_k]
};

Batch RandomBatch(int rows, int top_k, uint32_t seed) {
  Batch batch{.rows = rows, .top_k = top_k, .x = RandomFloats(size_t{1} * rows * kDim, seed)};
  std::mt19937 random(seed);
  std::vector<int32_t> experts(kExperts);
  std::iota(experts.begin(), experts.end(), 0);
  for (int t = 0; t < rows; ++t) {
    std::shuffle(experts.begin(), experts.end(), random);
    std::sort(experts.begin(), experts.begin() + top_k);
    batch.ids.insert(batch.ids.end(), experts.begin(), experts.begin() + top_k);
    for (int j = 0; j < top_k; ++j) batch.weights.push_back(0.1f + 0.9f / (1.0f + random() % 7));
  }
  return batch;
}

Batch OneRow(const Batch& batch, int t) {
  const auto part = [&](const auto& values, int width) {
    return std::remove_cvref_t<decltype(values)>(values.begin() + t * width,
                                                 values.begin() + (t + 1) * width);
  };
  return {1, batch.top_k, part(batch.x, kDim), part(batch.ids, batch.top_k),
          part(batch.weights, batch.top_k)};
}

ExpertsArgs Args(const Layer& layer, const Batch& batch, std::vector<float>& out) {
  out.assign(size_t{1} * batch.rows * kDim, 123.0f);
  return {.x = batch.x.data(),
          .rows = batch.rows,
          .dim = kDim,
          .width = kWidth,
          .top_k = batch.top_k,
          .gate_up = layer.gate_up,
          .down = layer.down,
          .ids = batch.ids.data(),
          .weights = batch.weights.data(),
          .out = out.data()};
}

class ExpertsTest : public testing::TestWithParam<CpuIsa> {
 protected:
  std::vector<float> Run(const Layer& layer, const Batch& batch, int threads) const {
    const CpuBackendPtr backend = BackendAt(GetParam(), threads);
    std::vector<float> out;
    CpuOps(*backend).experts(CpuOps(*backend).backend, Args(layer, batch, out));
    return out;
  }

  void ExpectReference(const Layer& layer, const Batch& batch) const {
    std::vector<float> want;
    const bool bf16 = GetParam() == CpuIsa::kAvx512Bf16;
    ExpertsReference(Args(layer, batch, want), bf16 ? Operands::kBf16 : Operands::kF32);
    // Values between the two products are rounded to bf16: an f32 error can tip one to its
    // neighbour, 2^-8 away.
    EXPECT_LE(RelativeError(Run(layer, batch, 2), want), bf16 ? 1e-3 : 2e-6);
  }
};

INSTANTIATE_TEST_SUITE_P(Levels, ExpertsTest, testing::ValuesIn(Levels()), LevelName);

TEST_P(ExpertsTest, EqualTheReference) {
  const Layer layer;
  for (int rows : {0, 1, 7, 16, 17, 40}) {
    for (int top_k : {1, 2, kExperts}) {
      SCOPED_TRACE(testing::Message() << rows << " rows, top " << top_k);
      ExpectReference(layer, RandomBatch(rows, top_k, 100 + rows));
    }
  }
}

TEST_P(ExpertsTest, EqualTheReferenceWhenAllRowsChooseOneExpert) {
  const Layer layer;
  for (int rows : {33, 520}) {  // the latter in more than one task's rows
    Batch batch = RandomBatch(rows, 1, 1);
    std::fill(batch.ids.begin(), batch.ids.end(), 4);
    ExpectReference(layer, batch);
  }
}

TEST_P(ExpertsTest, EqualTheReferenceBeyondTheRowsOfOnePass) {
  const Layer layer;
  ExpectReference(layer, RandomBatch(600, 2, 2));
}

TEST_P(ExpertsTest, AnExpertThatNobodyChoseIsNotRead) {
  // Given rows that avoid experts 0, 3 and the last, which have no weights at all.
  Layer layer;
  for (int expert : {0, 3, kExperts - 1}) layer.Remove(expert);
  Batch batch = RandomBatch(20, 2, 3);
  for (int t = 0; t < batch.rows; ++t) {
    batch.ids[2 * t] = 1 + t % 2;
    batch.ids[2 * t + 1] = 4 + t % 3;
  }
  // Then the products are made without them.
  ExpectReference(layer, batch);
}

TEST_P(ExpertsTest, ExpertsOfWeightZeroAddNothing) {
  const Layer layer;
  Batch batch = RandomBatch(5, 2, 4);
  std::fill(batch.weights.begin(), batch.weights.end(), 0.0f);
  EXPECT_THAT(Run(layer, batch, 2), testing::Each(0.0f));
}

TEST_P(ExpertsTest, RowBitsDependOnNothingButTheRow) {
  // Given a batch, its rows alone, and the batch in reverse order.
  const Layer layer;
  const Batch batch = RandomBatch(45, 3, 5);
  Batch reversed{.rows = batch.rows, .top_k = batch.top_k};
  for (int t = batch.rows - 1; t >= 0; --t) {
    const Batch row = OneRow(batch, t);
    reversed.x.insert(reversed.x.end(), row.x.begin(), row.x.end());
    reversed.ids.insert(reversed.ids.end(), row.ids.begin(), row.ids.end());
    reversed.weights.insert(reversed.weights.end(), row.weights.begin(), row.weights.end());
  }
  // When each runs, on different numbers of threads.
  const std::vector<float> together = Run(layer, batch, 3);
  const std::vector<float> backwards = Run(layer, reversed, 2);
  // Then a row has the same bits everywhere.
  for (int t = 0; t < batch.rows; ++t) {
    const std::vector<float> alone = Run(layer, OneRow(batch, t), 1);
    const size_t bytes = sizeof(float) * kDim;
    ASSERT_EQ(std::memcmp(alone.data(), together.data() + t * kDim, bytes), 0) << t;
    ASSERT_EQ(std::memcmp(alone.data(), backwards.data() + (batch.rows - 1 - t) * kDim, bytes), 0)
        << t;
  }
}

}  // namespace
}  // namespace tandem::kernels
