// Attention on stored codes: every pair of KV formats against the reference and against plain
// attention on the rows as they decode (turboquant 6.1 T3, T11, T12; 6.2 T15, T18).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/kv_row.h"
#include "kernels/reference/attention_ref.h"
#include "kernels/reference/kv_row_ref.h"
#include "tests/kernels/kv_rows.h"
#include "tests/kernels/paged_kv.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

using testing::Each;

constexpr int kPairs = kNumKvFormats * kNumKvFormats;

KvFormat FirstOf(int pair) { return kAllFormats[pair / kNumKvFormats]; }
KvFormat SecondOf(int pair) { return kAllFormats[pair % kNumKvFormats]; }

// Backends live as long as the test program: there are many cases.
const Ops& OpsAt(CpuIsa isa, int threads) {
  static auto* backends = new std::map<std::pair<CpuIsa, int>, CpuBackendPtr>;
  CpuBackendPtr& backend = (*backends)[{isa, threads}];
  if (backend == nullptr) backend = BackendAt(isa, threads);
  return CpuOps(*backend);
}

std::vector<float> Reference(const AttentionBatch& batch) {
  std::vector<float> out(size_t(batch.rows()) * batch.row_values(), NAN);
  const std::vector<AttentionSegment> segments = batch.Segments();
  AttentionReference(batch.Args(segments, out.data()));
  return out;
}

// T11 asks for 2e-3. Rounding the weights of V rows to 16 bits leaves more than f32 does.
double ToleranceOf(KvFormat v_format) { return KvHasScale(v_format) ? 1e-4 : kFloatTolerance; }

void ExpectEqualsReference(const AttentionBatch& batch) {
  const std::vector<float> want = Reference(batch);
  const double tolerance = ToleranceOf(batch.shape().v_format);
  for (const CpuIsa isa : VectorLevels()) {
    EXPECT_LE(RelativeError(batch.Run(OpsAt(isa, 2)), want), tolerance) << CpuIsaName(isa);
  }
}

// A stored row in the model's own space.
std::vector<float> ModelRow(KvFormat format, std::vector<float> row) {
  if (KvHasScale(format)) UnrotateReference(row.data(), static_cast<int>(row.size()), row.data());
  return row;
}

double Dot(std::span<const float> a, std::span<const float> b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}

// f64 attention of one row and head on rows that are un-rotated first, with q as it came.
std::vector<float> PlainAttention(const AttentionBatch& batch, int segment, int row, int head) {
  const KvShape& shape = batch.shape();
  const int kv_head = head * shape.num_kv_heads / batch.num_q_heads();
  const std::span<const float> q(batch.q(row) + head * shape.head_dim, shape.head_dim);
  std::vector<double> scores, sum(shape.head_dim, 0.0);
  double max = -INFINITY, total = 0.0;
  const Interval seen = batch.visible(row);
  for (int p = seen.begin; p < seen.end; ++p) {
    const int32_t block = batch.block(segment, p);
    scores.push_back(
        Dot(q, ModelRow(shape.k_format, batch.kv().ReadK(block, kv_head, batch.cell(p)))));
    max = std::max(max, scores.back());
  }
  for (int p = seen.begin; p < seen.end; ++p) {
    const double weight = std::exp(scores[p - seen.begin] - max);
    const std::vector<float> v =
        ModelRow(shape.v_format, batch.kv().ReadV(batch.block(segment, p), kv_head, batch.cell(p)));
    for (int d = 0; d < shape.head_dim; ++d) sum[d] += weight * v[d];
    total += weight;
  }
  std::vector<float> out(shape.head_dim);
  for (int d = 0; d < shape.head_dim; ++d) out[d] = static_cast<float>(sum[d] / total);
  return out;
}

// Random codes under scale 1: every level in every dimension, if there are enough rows.
void WriteRandomCodes(KvFormat format, int head_dim, const KvRow& row, std::mt19937& random) {
  const auto fill = [&](std::byte* bytes, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      const int code = static_cast<int>(random() >> 24);
      bytes[i] = static_cast<std::byte>(format == KvFormat::kQ8 && code == 128 ? 0 : code);
    }
  };
  if (format == KvFormat::kTurbo3) {
    fill(row.codes, head_dim / 4);
    fill(row.high_bits, head_dim / 8);
  } else {
    fill(row.codes, KvRowBytes(format, head_dim));
  }
  *row.scale = ToF16(1.0f);
}

// T11, T12: lengths around a block and chunks, windows that begin inside a block, 1 to 8 rows, and
// NaN in everything that no row sees.
TEST(AttentionCodesTest, EveryPairOfFormatsEqualsTheReference) {
  constexpr int kGroups[] = {1, 2, 4, 8, 16};
  constexpr int kRows[] = {1, 2, 4, 8};
  int variant = 0;
  for (int pair = 0; pair < kPairs; ++pair) {
    for (const int head_dim : {256, 512}) {
      const int group = kGroups[variant % 5], rows = kRows[variant / 2 % 4];
      const int log2_block = 4 + variant % 3, block = 1 << log2_block;
      SCOPED_TRACE(testing::Message()
                   << "K " << NameOf(FirstOf(pair)) << " V " << NameOf(SecondOf(pair))
                   << " head_dim " << head_dim << " group " << group << " rows " << rows
                   << " block " << block);
      ExpectEqualsReference(
          AttentionBatch({.head_dim = head_dim,
                          .num_kv_heads = 1 + variant % 2,
                          .log2_block_tokens = log2_block,
                          .k_format = FirstOf(pair),
                          .v_format = SecondOf(pair)},
                         group,
                         {CausalRows(1, 1), CausalRows(block - 1, rows), CausalRows(block, 1),
                          CausalRows(block + 1, rows), CausalRows(5 * block + 7, rows),
                          CausalRows(4 * block + 3, rows, block + 5)}));
      ++variant;
    }
  }
}

TEST(AttentionCodesTest, LongContextsEqualTheReference) {
  int variant = 0;
  for (const KvFormat k : kAllFormats) {
    const KvFormat v = kAllFormats[(variant * 3 + 3) % kNumKvFormats];
    SCOPED_TRACE(testing::Message() << "K " << NameOf(k) << " V " << NameOf(v));
    ExpectEqualsReference(AttentionBatch({.head_dim = variant % 2 == 0 ? 512 : 256,
                                          .log2_block_tokens = 4 + variant % 3,
                                          .k_format = k,
                                          .v_format = v},
                                         4, {CausalRows(4096, 1)}));
    ++variant;
  }
}

// T3 for V: rows that see one token each, in every cell of every block.
TEST(AttentionCodesTest, ARowThatSeesOneTokenGetsItsValueFromEveryCellAndEveryLevel) {
  std::mt19937 random(5);
  for (const KvFormat format : kScaledFormats) {
    for (const int head_dim : {256, 512}) {
      SCOPED_TRACE(testing::Message() << "format " << NameOf(format) << " head_dim " << head_dim);
      const int positions = 192;
      SegmentRows rows;
      for (int p = 0; p < positions; ++p) rows.push_back({p, p + 1});
      AttentionBatch batch({.head_dim = head_dim,
                            .num_kv_heads = 2,
                            .log2_block_tokens = 4 + int(format) % 3,
                            .k_format = KvFormat::kBf16,
                            .v_format = format},
                           1, {rows});
      std::vector<float> want;
      for (int p = 0; p < positions; ++p) {
        for (int head = 0; head < 2; ++head) {
          const int32_t block = batch.block(0, p);
          WriteRandomCodes(format, head_dim, batch.kv().V(block, head, batch.cell(p)), random);
          const std::vector<float> row =
              ModelRow(format, batch.kv().ReadV(block, head, batch.cell(p)));
          want.insert(want.end(), row.begin(), row.end());
        }
      }
      for (const CpuIsa isa : Levels()) {
        const std::vector<float> out = batch.Run(OpsAt(isa, 2));
        double worst = 0.0;
        for (size_t i = 0; i < out.size(); ++i) {
          worst = std::max(worst, std::fabs(double{out[i]} - want[i]));
        }
        EXPECT_LE(worst, 2e-5) << CpuIsaName(isa);  // values are up to about 2 sqrt(d)
      }
    }
  }
}

// Logits of one row over `positions` tokens of head 0, but for a constant: log of the weights, made
// visible by V rows that are each 1 in a dimension of their own.
std::vector<double> CentredLogits(const AttentionBatch& batch, CpuIsa isa, int row) {
  const std::vector<float> out = batch.Run(OpsAt(isa, 1));
  const Interval seen = batch.visible(row);
  std::vector<double> logits;
  double mean = 0.0;
  for (int p = seen.begin; p < seen.end; ++p) {
    logits.push_back(std::log(double{out[size_t(row) * batch.row_values() + p]}));
    mean += logits.back() / (seen.end - seen.begin);
  }
  for (double& x : logits) x -= mean;
  return logits;
}

void MakeWeightsVisible(AttentionBatch& batch, int positions) {
  for (int p = 0; p < positions; ++p) {
    std::vector<float> v(batch.shape().head_dim, 0.0f);
    v[p] = 1.0f;
    batch.kv().WriteV(batch.block(0, p), 0, batch.cell(p), v);
  }
}

// T3 for K, and T11 on logits: random codes in every cell, met by the rounded query.
TEST(AttentionCodesTest, EveryCellAndEveryLevelOfKGivesItsLogit) {
  std::mt19937 random(6);
  for (const KvFormat format : kScaledFormats) {
    for (const int head_dim : {256, 512}) {
      SCOPED_TRACE(testing::Message() << "format " << NameOf(format) << " head_dim " << head_dim);
      const int positions = 192;
      AttentionBatch batch({.head_dim = head_dim,
                            .log2_block_tokens = 4 + int(format) % 3,
                            .k_format = format,
                            .v_format = KvFormat::kF32},
                           1, {CausalRows(positions, 1)});
      MakeWeightsVisible(batch, positions);
      for (int p = 0; p < positions; ++p) {
        WriteRandomCodes(format, head_dim, batch.kv().K(batch.block(0, p), 0, batch.cell(p)),
                         random);
      }
      for (int d = 0; d < head_dim; ++d) batch.q(0)[d] *= 0.1f;
      const std::vector<double> want = CentredLogits(batch, CpuIsa::kRef, 0);
      double largest = 0.0;
      for (const double x : want) largest = std::max(largest, std::fabs(x));
      ASSERT_GT(largest, 1.0);
      for (const CpuIsa isa : VectorLevels()) {
        const std::vector<double> got = CentredLogits(batch, isa, 0);
        for (int p = 0; p < positions; ++p) {
          EXPECT_NEAR(got[p], want[p], 1e-5 * largest) << CpuIsaName(isa) << " position " << p;
        }
      }
    }
  }
}

// T11: what the query's 8 bits cost, in units of |q| |k| / sqrt(d).
TEST(AttentionCodesTest, TheNoiseOfTheRoundedQueryIsSmall) {
  for (const KvFormat format : kScaledFormats) {
    for (const int head_dim : {256, 512}) {
      SCOPED_TRACE(testing::Message() << "format " << NameOf(format) << " head_dim " << head_dim);
      const int positions = 256;
      double squares = 0.0, worst = 0.0;
      for (uint32_t seed = 1; seed <= 8; ++seed) {
        AttentionBatch batch({.head_dim = head_dim, .k_format = format, .v_format = KvFormat::kF32},
                             1, {CausalRows(positions, 1)}, seed);
        MakeWeightsVisible(batch, positions);
        const std::span<const float> q(batch.q(0), head_dim);
        std::vector<double> exact, unit;
        double mean = 0.0;
        for (int p = 0; p < positions; ++p) {
          const std::vector<float> k =
              ModelRow(format, batch.kv().ReadK(batch.block(0, p), 0, batch.cell(p)));
          exact.push_back(Dot(q, k));
          unit.push_back(std::sqrt(Dot(q, q) * Dot(k, k) / head_dim));
          mean += exact.back() / positions;
        }
        const std::vector<double> got = CentredLogits(batch, BestCpuIsa(), 0);
        for (int p = 0; p < positions; ++p) {
          const double noise = (got[p] - (exact[p] - mean)) / unit[p];
          squares += noise * noise / (8 * positions);
          worst = std::max(worst, std::fabs(noise));
        }
      }
      EXPECT_LE(std::sqrt(squares), 0.9e-2);
      EXPECT_GE(std::sqrt(squares),
                1e-3);  // there is one: K meets 8 bits, not f32
      EXPECT_LE(worst, 5e-2);
    }
  }
}

// T18: K rotated or not, V rotated or not; a generated row, a draft's verification, a prompt, and a
// layer that reads another's rows with more heads of its own.
TEST(AttentionCodesTest, RotationGoesInAndOutWithEachFormatAlone) {
  constexpr KvFormat kPlainAndRotated[] = {KvFormat::kBf16, KvFormat::kF16, KvFormat::kQ8,
                                           KvFormat::kTurbo4};
  for (const KvFormat k : kPlainAndRotated) {
    for (const KvFormat v : kPlainAndRotated) {
      for (const int group : {2, 8}) {
        SCOPED_TRACE(testing::Message()
                     << "K " << NameOf(k) << " V " << NameOf(v) << " group " << group);
        const AttentionBatch batch(
            {.head_dim = group == 2 ? 256 : 512, .num_kv_heads = 2, .k_format = k, .v_format = v},
            group, {CausalRows(150, 1), CausalRows(70, 4), CausalRows(24, 24)});
        for (const CpuIsa isa : Levels()) {
          const std::vector<float> out = batch.Run(OpsAt(isa, 2));
          int segment = 0;
          for (const int row : {0, 4, 28}) {  // the last of each segment
            for (const int head : {0, 2 * group - 1}) {
              const int dim = batch.shape().head_dim;
              const std::span<const float> got(
                  &out[size_t(row) * batch.row_values() + size_t(head) * dim], dim);
              EXPECT_LE(RelativeError(got, PlainAttention(batch, segment, row, head)), 5e-2)
                  << CpuIsaName(isa) << " row " << row << " head " << head;
            }
            ++segment;
          }
        }
      }
    }
  }
}

// 127 and 128 times 127, in all places: what a product of bytes that saturates would not survive.
TEST(AttentionCodesTest, TheLargestDotProductsAreExact) {
  for (const KvFormat format : kScaledFormats) {
    for (const int head_dim : {256, 512}) {
      AttentionBatch batch({.head_dim = head_dim, .k_format = format, .v_format = KvFormat::kF32},
                           1, {CausalRows(8, 1)});
      MakeWeightsVisible(batch, 8);
      // Given a query that is the same in all rotated dimensions, and keys that agree with it in
      // all, in all but one, and in none.
      std::fill_n(batch.q(0), head_dim, 0.0f);
      batch.q(0)[0] = 0.5f;
      for (int p = 0; p < 8; ++p) {
        std::vector<float> k(head_dim, p < 4 ? -1.0f : 1.0f);
        k[p * 31] = -k[p * 31];
        UnrotateReference(k.data(), head_dim, k.data());
        batch.kv().WriteK(batch.block(0, p), 0, p, k);
      }
      const std::vector<double> want = CentredLogits(batch, CpuIsa::kRef, 0);
      for (const CpuIsa isa : VectorLevels()) {
        const std::vector<double> got = CentredLogits(batch, isa, 0);
        for (int p = 0; p < 8; ++p) EXPECT_NEAR(got[p], want[p], 1e-5) << CpuIsaName(isa);
      }
    }
  }
}

TEST(AttentionCodesTest, ARowWithScaleZeroIsZeroWhateverItsCodes) {
  std::mt19937 random(7);
  for (const KvFormat format : kScaledFormats) {
    AttentionBatch batch({.k_format = format, .v_format = format}, 2, {CausalRows(20, 1)});
    for (int p = 0; p < 20; ++p) {
      for (const KvRow& row :
           {batch.kv().K(batch.block(0, p), 0, p), batch.kv().V(batch.block(0, p), 0, p)}) {
        WriteRandomCodes(format, 256, row, random);
        *row.scale = {};
      }
    }
    for (const CpuIsa isa : Levels()) {
      EXPECT_THAT(batch.Run(OpsAt(isa, 1)), Each(0.0f)) << CpuIsaName(isa);
    }
  }
}

TEST(AttentionCodesTest, AQueryOfNothingAveragesAndOneThatIsNotANumberStaysSo) {
  for (const KvFormat k : kAllFormats) {
    for (const KvFormat v : {KvFormat::kF32, KvFormat::kQ8, KvFormat::kTurbo3}) {
      SCOPED_TRACE(testing::Message() << "K " << NameOf(k) << " V " << NameOf(v));
      AttentionBatch batch(
          {.k_format = k, .v_format = v}, 1,
          {CausalRows(4, 1), CausalRows(4, 1), CausalRows(4, 1), CausalRows(300, 1)});
      std::fill_n(batch.q(0), 256, 0.0f);
      std::fill_n(batch.q(1), 256, 1e-40f);
      batch.q(2)[77] = std::numeric_limits<float>::quiet_NaN();
      batch.q(3)[77] = std::numeric_limits<float>::infinity();
      for (const CpuIsa isa : Levels()) {
        const std::vector<float> out = batch.Run(OpsAt(isa, 2));
        for (int row = 0; row < 2; ++row) {
          std::vector<float> mean(256, 0.0f);
          for (int p = 0; p < 4; ++p) {
            const std::vector<float> value =
                ModelRow(v, batch.kv().ReadV(batch.block(row, p), 0, p));
            for (int d = 0; d < 256; ++d) mean[d] += value[d] / 4;
          }
          EXPECT_LE(RelativeError({&out[row * 256], 256}, mean), ToleranceOf(v))
              << CpuIsaName(isa) << " row " << row;
        }
        EXPECT_TRUE(std::all_of(&out[2 * 256], &out[4 * 256], [](float x) {
          return std::isnan(x);
        })) << CpuIsaName(isa);
      }
    }
  }
}

// T12 once more, by bits.
TEST(AttentionCodesTest, WhatLiesOutsideOfTheVisibleRowsChangesNoBit) {
  for (int pair = 0; pair < kPairs; ++pair) {
    const KvShape shape = {
        .num_kv_heads = 2, .k_format = FirstOf(pair), .v_format = SecondOf(pair)};
    const std::vector<SegmentRows> rows = {CausalRows(45, 5, 20), CausalRows(7, 1)};
    const AttentionBatch nan(shape, 3, rows, 1, 0xff), zero(shape, 3, rows, 1, 0);
    for (const CpuIsa isa : Levels()) {
      const std::vector<float> a = nan.Run(OpsAt(isa, 1)), b = zero.Run(OpsAt(isa, 1));
      EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0)
          << "K " << NameOf(shape.k_format) << " V " << NameOf(shape.v_format) << " "
          << CpuIsaName(isa);
    }
  }
}

// T15 and INV-1: the same row in a prompt, alone, verified among others, on any number of threads,
// split or not.
TEST(AttentionCodesTest, ARowHasTheSameBitsInEveryCompanyForEveryPairOfFormats) {
  for (int pair = 0; pair < kPairs; ++pair) {
    const KvShape shape = {.head_dim = pair % 2 == 0 ? 256 : 512,
                           .num_kv_heads = 1 + pair % 2,
                           .log2_block_tokens = 4 + pair % 3,
                           .k_format = FirstOf(pair),
                           .v_format = SecondOf(pair)};
    const AttentionBatch batch(shape, pair % 3 == 0 ? 8 : 3,
                               {CausalRows(390, 5), CausalRows(33, 21), CausalRows(60, 9, 30)});
    const std::vector<AttentionSegment> segments = batch.Segments();
    const size_t values = batch.row_values();
    for (const CpuIsa isa : VectorLevels()) {
      SCOPED_TRACE(testing::Message() << "K " << NameOf(shape.k_format) << " V "
                                      << NameOf(shape.v_format) << " " << CpuIsaName(isa));
      const std::vector<float> all = batch.Run(OpsAt(isa, 2));
      const auto expect_same = [&](const std::vector<float>& got, int row, int rows) {
        EXPECT_EQ(
            std::memcmp(&got[row * values], &all[row * values], rows * values * sizeof(float)), 0)
            << "row " << row << " of " << rows;
      };
      expect_same(batch.Run(OpsAt(isa, 1)), 0, batch.rows());
      const std::vector<AttentionSegment> reversed(segments.rbegin(), segments.rend());
      expect_same(batch.Run(OpsAt(isa, 3), reversed), 0, batch.rows());
      for (const AttentionSegment& segment : segments) {
        for (const int chunk : {1, 4}) {
          for (int i = 0; i < segment.num_rows; i += chunk) {
            const int row = segment.row_begin + i, rows = std::min(chunk, segment.num_rows - i);
            const AttentionSegment part = {row, rows, segment.block_table};
            expect_same(batch.Run(OpsAt(isa, 1 + i % 2), {&part, 1}), row, rows);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
