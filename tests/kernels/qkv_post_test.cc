// What happens to q, k and v behind their projection: every CPU level against the reference, and
// the rotation against gemma4.md 7.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/qkv_post_ref.h"
#include "tests/kernels/kv_rows.h"
#include "tests/kernels/paged_kv.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

using testing::FloatNear;
using testing::Pointwise;

// Rows of a projection with their positions' rotation, and a pool to store into.
struct QkvCase {
  QkvCase(const KvShape& shape, int rows, int num_q_heads, bool has_v, int live)
      : shape(shape), rows(rows), num_q_heads(num_q_heads), has_v(has_v), live(live) {
    stride = (num_q_heads + (has_v ? 2 : 1) * shape.num_kv_heads) * shape.head_dim + 7;
    qkv = RandomFloats(size_t(rows) * stride, 1, 2.0f);
    q_norm = RandomFloats(shape.head_dim, 2);
    k_norm = RandomFloats(shape.head_dim, 3);
    for (const float angle : RandomFloats(size_t(rows) * live, 4)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
    // Cells scattered over the pool, one per row.
    for (int t = 0; t < rows; ++t) cells.push_back((t * 37 + 5) % (rows * 40));
  }

  QkvPostArgs Args(std::vector<float>& values, const KvView& view) const {
    return {.qkv = values.data(),
            .stride = stride,
            .rows = rows,
            .num_q_heads = num_q_heads,
            .num_kv_heads = shape.num_kv_heads,
            .head_dim = shape.head_dim,
            .has_v = has_v,
            .q_norm = q_norm.data(),
            .k_norm = k_norm.data(),
            .cos = cos.data(),
            .sin = sin.data(),
            .live = live,
            .eps = 1e-6f,
            .kv = view,
            .cells = cells.data()};
  }
  int blocks() const { return (rows * 40 >> shape.log2_block_tokens) + 1; }

  // All stored K (or V) values, row by row and head by head.
  std::vector<float> Stored(PagedKv& kv, bool keys) const {
    std::vector<float> all;
    for (const int32_t cell : cells) {
      const int block = cell >> shape.log2_block_tokens;
      const int at = cell & ((1 << shape.log2_block_tokens) - 1);
      for (int h = 0; h < shape.num_kv_heads; ++h) {
        const std::vector<float> row = keys ? kv.Read(kv.KRow(block, h, at), shape.k_format)
                                            : kv.Read(kv.VRow(block, h, at), shape.v_format);
        all.insert(all.end(), row.begin(), row.end());
      }
    }
    return all;
  }

  KvShape shape;
  int rows, num_q_heads;
  bool has_v;
  int live, stride;
  std::vector<float> qkv, q_norm, k_norm, cos, sin;
  std::vector<int32_t> cells;
};

// A pool for any pair of formats, its head-blocks as types.h lays them out; every byte 0xff (NaN
// scales) until written.
struct FormatPool {
  FormatPool(const KvShape& shape, int blocks) {
    const size_t tokens = size_t{1} << shape.log2_block_tokens;
    view.v_offset = tokens * KvRowBytes(shape.k_format, shape.head_dim);
    size_t end = view.v_offset + tokens * KvRowBytes(shape.v_format, shape.head_dim);
    for (const bool keys : {true, false}) {
      if (!KvHasScale(keys ? shape.k_format : shape.v_format)) continue;
      (keys ? view.k_scale_offset : view.v_scale_offset) = end;
      end += 2 * tokens;
    }
    view.head_stride = (end + 127) / 128 * 128;
    view.block_stride = view.head_stride * shape.num_kv_heads + 256;  // other layers' bytes
    view.log2_block_tokens = shape.log2_block_tokens;
    view.k_format = shape.k_format;
    view.v_format = shape.v_format;
    bytes.assign(view.block_stride * blocks, std::byte{0xff});
    view.base = bytes.data();
  }
  FormatPool(const FormatPool&) = delete;

  KvView view;
  std::vector<std::byte> bytes;
};

class QkvPostTest : public testing::TestWithParam<CpuIsa> {
 protected:
  CpuBackendPtr backend_ = BackendAt(GetParam(), 2);
  const Ops& ops_ = CpuOps(*backend_);

  // q = [1..8] at position 3, with a norm weight that undoes the norm.
  std::vector<float> RotateOneToEight(double theta, int live) {
    std::vector<float> q = {1, 2, 3, 4, 5, 6, 7, 8};
    const std::vector<float> norm(8, std::sqrt(204.0f / 8));
    std::vector<float> cos, sin;
    for (int j = 0; j < live; ++j) {
      cos.push_back(std::cos(3.0 * std::pow(theta, -2.0 * j / 8)));
      sin.push_back(std::sin(3.0 * std::pow(theta, -2.0 * j / 8)));
    }
    ops_.qkv_post(ops_.backend, {.qkv = q.data(),
                                 .stride = 8,
                                 .rows = 1,
                                 .num_q_heads = 1,
                                 .head_dim = 8,
                                 .q_norm = norm.data(),
                                 .cos = cos.data(),
                                 .sin = sin.data(),
                                 .live = live,
                                 .kv = {}});
    return q;
  }
};

INSTANTIATE_TEST_SUITE_P(Levels, QkvPostTest, testing::ValuesIn(Levels()), LevelName);

TEST_P(QkvPostTest, RotationEqualsThePublishedNumbers) {
  EXPECT_THAT(RotateOneToEight(1e4, 4),
              Pointwise(FloatNear(2e-6f), {-1.695593f, 0.137552f, 2.788682f, 3.975982f, -4.808842f,
                                           6.323059f, 7.086837f, 8.011964f}));
}

TEST_P(QkvPostTest, ProportionalRotationLeavesTheOtherPairsAlone) {
  EXPECT_THAT(
      RotateOneToEight(1e6, 1),
      Pointwise(FloatNear(2e-6f), {-1.695593f, 2.0f, 3.0f, 4.0f, -4.808842f, 6.0f, 7.0f, 8.0f}));
}

TEST_P(QkvPostTest, EqualsTheReferenceForEveryHeadSizeFormatAndSourceOfV) {
  int variant = 0;
  for (const int head_dim : {256, 512}) {
    for (const bool has_v : {true, false}) {
      for (const int live : {head_dim / 2, 64, 3}) {
        for (const int rows : {0, 1, 7}) {
          SCOPED_TRACE(testing::Message() << "head_dim " << head_dim << " has_v " << has_v
                                          << " live " << live << " rows " << rows);
          const KvShape shape = {.head_dim = head_dim,
                                 .num_kv_heads = 1 + variant % 2,
                                 .log2_block_tokens = 4 + variant % 3,
                                 .k_format = KvFormat::kF32,
                                 .v_format = KvFormat::kF32};
          ++variant;
          const QkvCase test(shape, rows, 3, has_v, live);
          PagedKv kv(shape, test.blocks()), want_kv(shape, test.blocks());
          std::vector<float> qkv = test.qkv, want = test.qkv;
          ops_.qkv_post(ops_.backend, test.Args(qkv, kv.view()));
          QkvPostReference(test.Args(want, want_kv.view()));
          EXPECT_LE(RelativeError(qkv, want), kFloatTolerance);
          EXPECT_LE(RelativeError(test.Stored(kv, true), test.Stored(want_kv, true)),
                    kFloatTolerance);
          EXPECT_LE(RelativeError(test.Stored(kv, false), test.Stored(want_kv, false)),
                    kFloatTolerance);
        }
      }
    }
  }
}

TEST_P(QkvPostTest, Bf16RowsAreTheF32RowsRoundedToNearestEven) {
  KvShape shape = {.num_kv_heads = 2, .k_format = KvFormat::kF32, .v_format = KvFormat::kF32};
  QkvCase test(shape, 5, 2, true, 128);
  PagedKv exact(shape, test.blocks());
  std::vector<float> qkv = test.qkv;
  ops_.qkv_post(ops_.backend, test.Args(qkv, exact.view()));
  const std::vector<float> k = test.Stored(exact, true), v = test.Stored(exact, false);

  for (const bool keys : {true, false}) {
    test.shape.k_format = keys ? KvFormat::kBf16 : KvFormat::kF32;
    test.shape.v_format = keys ? KvFormat::kF32 : KvFormat::kBf16;
    PagedKv rounded(test.shape, test.blocks());
    qkv = test.qkv;
    ops_.qkv_post(ops_.backend, test.Args(qkv, rounded.view()));
    std::vector<float> want_k = k, want_v = v;
    for (float& x : keys ? want_k : want_v) x = ToFloat(ToBf16(x));
    EXPECT_EQ(test.Stored(rounded, true), want_k);
    EXPECT_EQ(test.Stored(rounded, false), want_v);
  }
}

TEST_P(QkvPostTest, ANaNStaysANaNInBf16) {
  const KvShape shape;
  QkvCase test(shape, 1, 1, true, 128);
  test.qkv[256 + 9] = std::numeric_limits<float>::quiet_NaN();  // k
  PagedKv kv(shape, test.blocks());
  ops_.qkv_post(ops_.backend, test.Args(test.qkv, kv.view()));
  for (const float x : test.Stored(kv, true)) EXPECT_TRUE(std::isnan(x));
  for (const float x : test.Stored(kv, false)) EXPECT_TRUE(std::isfinite(x));
}

// The pool that rows stored in f32 become in the formats of `shape`.
void StoreAgain(const QkvCase& test, const KvShape& shape, const FormatPool& exact,
                FormatPool& want) {
  for (const int32_t cell : test.cells) {
    const int block = cell >> shape.log2_block_tokens;
    const int at = cell & ((1 << shape.log2_block_tokens) - 1);
    const int dim = shape.head_dim;
    for (int h = 0; h < shape.num_kv_heads; ++h) {
      std::vector<float> row(dim);
      DecodeRowReference(KvFormat::kF32, dim, KRowAt(exact.view, block, h, at, dim), row.data());
      EncodeRowReference(row.data(), shape.k_format, dim, KRowAt(want.view, block, h, at, dim));
      DecodeRowReference(KvFormat::kF32, dim, VRowAt(exact.view, block, h, at, dim), row.data());
      EncodeRowReference(row.data(), shape.v_format, dim, VRowAt(want.view, block, h, at, dim));
    }
  }
}

TEST_P(QkvPostTest, EveryPairOfFormatsStoresTheReferencesBytesInTheRowsOwnCells) {
  int variant = 0;
  for (const int head_dim : {256, 512}) {
    for (const KvFormat k_format : kAllFormats) {
      for (const KvFormat v_format : kAllFormats) {
        SCOPED_TRACE(NameOf(k_format) + "/" + NameOf(v_format) + " " + std::to_string(head_dim));
        // Given rows as this level stores them in f32.
        ++variant;
        KvShape shape = {.head_dim = head_dim,
                         .num_kv_heads = 1 + variant % 2,
                         .log2_block_tokens = 4 + variant % 3,
                         .k_format = KvFormat::kF32,
                         .v_format = KvFormat::kF32};
        const QkvCase test(shape, 3, 1, variant % 5 != 0, 64);
        FormatPool exact(shape, test.blocks());
        std::vector<float> qkv = test.qkv;
        QkvPostArgs args = test.Args(qkv, exact.view);
        ops_.qkv_post(ops_.backend, args);
        // When they are stored in a pair of formats.
        shape.k_format = k_format;
        shape.v_format = v_format;
        FormatPool got(shape, test.blocks()), want(shape, test.blocks());
        KvEncodeCounts counts;
        std::vector<uint8_t> nonfinite(test.rows);
        qkv = test.qkv;
        args.kv = got.view;
        args.counts = &counts;
        args.nonfinite = nonfinite.data();
        ops_.qkv_post(ops_.backend, args);
        // Then the pool is the one that the reference fills with those rows, to the last byte.
        StoreAgain(test, shape, exact, want);
        EXPECT_EQ(got.bytes, want.bytes);
        EXPECT_EQ(nonfinite, std::vector<uint8_t>(test.rows));
        for (const int side : {0, 1}) {
          EXPECT_EQ(counts.nonfinite[side] + counts.zero[side] + counts.clamped[side], 0u);
        }
      }
    }
  }
}

TEST_P(QkvPostTest, ARowThatIsNotFiniteIsStoredAsZerosCountedAndMarked) {
  const KvShape shape = {
      .num_kv_heads = 2, .k_format = KvFormat::kTurbo4, .v_format = KvFormat::kQ8};
  const QkvCase test(shape, 5, 1, true, 128);
  const auto run = [&](std::vector<float> qkv, FormatPool& pool, KvEncodeCounts& counts) {
    std::vector<uint8_t> nonfinite(test.rows);
    QkvPostArgs args = test.Args(qkv, pool.view);
    args.counts = &counts;
    args.nonfinite = nonfinite.data();
    ops_.qkv_post(ops_.backend, args);
    return nonfinite;
  };
  FormatPool clean(shape, test.blocks()), got(shape, test.blocks());
  KvEncodeCounts clean_counts, counts;
  run(test.qkv, clean, clean_counts);
  // Given a NaN in token 1's second K head, and an infinity in token 3's first V head.
  std::vector<float> qkv = test.qkv;
  qkv[1 * test.stride + 2 * 256 + 77] = std::numeric_limits<float>::quiet_NaN();
  qkv[3 * test.stride + 3 * 256] = std::numeric_limits<float>::infinity();
  // When the tokens are stored, then these two rows are zeros and nothing else is different.
  EXPECT_EQ(run(qkv, got, counts), (std::vector<uint8_t>{0, 1, 0, 1, 0}));
  EXPECT_EQ(counts.nonfinite[0], 1u);
  EXPECT_EQ(counts.nonfinite[1], 1u);
  EXPECT_EQ(counts.zero[0] + counts.zero[1] + counts.clamped[0] + counts.clamped[1], 0u);
  const int32_t k_cell = test.cells[1], v_cell = test.cells[3];
  const KvRow k = KRowAt(clean.view, k_cell >> 5, 1, k_cell & 31, 256);
  const KvRow v = VRowAt(clean.view, v_cell >> 5, 0, v_cell & 31, 256);
  std::fill_n(k.codes, 128, std::byte{0});
  std::fill_n(v.codes, 256, std::byte{0});
  *k.scale = *v.scale = {};
  EXPECT_EQ(got.bytes, clean.bytes);
}

TEST_P(QkvPostTest, ZeroAndClampedRowsAreCountedBySide) {
  const KvShape shape = {.k_format = KvFormat::kTurbo2, .v_format = KvFormat::kTurbo3};
  QkvCase test(shape, 3, 1, true, 0);
  // Given K norms made huge by their weight, a token whose V is zero, and one whose K is too.
  std::fill(test.k_norm.begin(), test.k_norm.end(), 1e8f);
  std::fill_n(&test.qkv[1 * test.stride + 2 * 256], 256, 0.0f);
  std::fill_n(&test.qkv[2 * test.stride + 256], 512, 0.0f);
  FormatPool pool(shape, test.blocks());
  KvEncodeCounts counts;
  std::vector<float> qkv = test.qkv;
  QkvPostArgs args = test.Args(qkv, pool.view);
  args.counts = &counts;
  ops_.qkv_post(ops_.backend, args);
  EXPECT_EQ(counts.clamped[0], 2u);
  EXPECT_EQ(counts.zero[0], 1u);
  EXPECT_EQ(counts.clamped[1], 0u);
  EXPECT_EQ(counts.zero[1], 2u);
  EXPECT_EQ(counts.nonfinite[0] + counts.nonfinite[1], 0u);
}

TEST_P(QkvPostTest, OnlyTheRowsOwnCellsAreWritten) {
  const KvShape shape = {.num_kv_heads = 2, .log2_block_tokens = 4};
  const QkvCase test(shape, 3, 1, true, 128);
  PagedKv kv(shape, test.blocks());
  std::vector<float> qkv = test.qkv;
  ops_.qkv_post(ops_.backend, test.Args(qkv, kv.view()));
  // When the written rows are poisoned again, then the pool is as it was.
  for (const int32_t cell : test.cells) {
    for (int h = 0; h < 2; ++h) {
      std::memset(kv.KRow(cell >> 4, h, cell & 15), 0xff, 512);
      std::memset(kv.VRow(cell >> 4, h, cell & 15), 0xff, 512);
    }
  }
  EXPECT_EQ(kv.bytes(), PagedKv(shape, test.blocks()).bytes());
  // The k and v columns are read only.
  for (int t = 0; t < test.rows; ++t) {
    for (int i = 256; i < test.stride; ++i) {
      EXPECT_EQ(qkv[t * test.stride + i], test.qkv[t * test.stride + i]);
    }
  }
}

TEST_P(QkvPostTest, ALayerThatSharesKvStoresNothing) {
  const KvShape shape = {.num_kv_heads = 0};
  const QkvCase test(shape, 4, 2, true, 64);
  std::vector<float> qkv = test.qkv, want = test.qkv;
  PagedKv kv(shape, 1);
  QkvPostArgs args = test.Args(qkv, kv.view());
  args.kv = {};
  args.cells = nullptr;
  ops_.qkv_post(ops_.backend, args);
  QkvPostReference(test.Args(want, kv.view()));
  EXPECT_LE(RelativeError(qkv, want), kFloatTolerance);
}

TEST_P(QkvPostTest, BitsOfARowDependOnTheRowAlone) {
  for (const KvFormat format : kAllFormats) {
    SCOPED_TRACE(NameOf(format));
    const KvShape shape = {.num_kv_heads = 2, .k_format = format, .v_format = format};
    const QkvCase test(shape, 50, 4, true, 128);
    FormatPool together(shape, test.blocks()), alone(shape, test.blocks());
    std::vector<float> all = test.qkv, single = test.qkv;
    ops_.qkv_post(ops_.backend, test.Args(all, together.view));
    for (int t = 0; t < test.rows; ++t) {
      QkvPostArgs args = test.Args(single, alone.view);
      args.qkv += t * test.stride;
      args.cos += t * test.live;
      args.sin += t * test.live;
      args.cells += t;
      args.rows = 1;
      ops_.qkv_post(ops_.backend, args);
    }
    EXPECT_EQ(std::memcmp(all.data(), single.data(), all.size() * sizeof(float)), 0);
    EXPECT_EQ(together.bytes, alone.bytes);
  }
}

}  // namespace
}  // namespace tandem::kernels
