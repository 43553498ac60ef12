// Every cell of every pair of formats as attention reads it (KV-1).
#include <gtest/gtest.h>

#include <span>
#include <vector>

#include "tests/emu/attention_step.h"
#include "tests/kernels/kv_rows.h"

namespace tandem::kernels {
namespace {

constexpr KvFormat kStored[] = {KvFormat::kBf16,   KvFormat::kF16,    KvFormat::kQ8,
                                KvFormat::kTurbo4, KvFormat::kTurbo3, KvFormat::kTurbo2};

class AttentionCellsTest : public testing::TestWithParam<int> {};

TEST_P(AttentionCellsTest, ARowThatPointsAtOnePositionGetsItsValue) {
  const int dim = GetParam(), positions = 80;
  int variant = 0;
  for (const KvFormat k : kStored) {
    for (const KvFormat v : kStored) {
      const int log2_block = 4 + variant % 3;
      SCOPED_TRACE(testing::Message()
                   << NameOf(k) << " " << NameOf(v) << " block 2^" << log2_block);
      // Given as many rows as positions, q of row p a multiple of K at p.
      AttentionBatch batch(
          {.head_dim = dim, .log2_block_tokens = log2_block, .k_format = k, .v_format = v},
          /*group=*/1, {SegmentRows(positions, {0, positions})});
      std::vector<float> want;
      for (int p = 0; p < positions; ++p) {
        const int block = batch.block(0, p), cell = batch.cell(p);
        const std::vector<float> key = InModelSpace(batch.kv().ReadK(block, 0, cell), k);
        const float scale = static_cast<float>(60.0 / Dot(key, key));
        for (int d = 0; d < dim; ++d) batch.q(p)[d] = scale * key[d];
        const std::vector<float> value = InModelSpace(batch.kv().ReadV(block, 0, cell), v);
        want.insert(want.end(), value.begin(), value.end());
      }
      // When all of them attend to all positions, in both ways.
      const StepResult results[] = {
          RunStep(batch, AllRows(batch), {.grain = {.m_tiles = 1 + variant % 2}}),
          RunDirectStep(batch, AllRows(batch), {})};
      // Then each row is the value at its position.
      for (const StepResult& got : results) {
        ASSERT_EQ(got.error, "");
        for (int p = 0; p < positions; ++p) {
          ASSERT_LE(RelativeError(std::span(got.out).subspan(p * dim, dim),
                                  std::span(want).subspan(p * dim, dim)),
                    kAttentionTolerance)
              << p;
        }
      }
      ++variant;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(HeadSizes, AttentionCellsTest, testing::Values(256, 512),
                         testing::PrintToStringParamName());

}  // namespace
}  // namespace tandem::kernels
