// What the CUDA kernel makes of q, k and v: values against the reference, bytes
// against the same f32 operations in plain loops.
#include "kernels/cuda/qkv_post.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/ops.h"
#include "kernels/reference/kv_row_ref.h"
#include "kernels/reference/qkv_post_ref.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/kv_pools.h"
#include "tests/emu/schedules.h"
#include "tests/kernels/kv_rows.h"
#include "tests/kernels/paged_kv.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {
namespace {

constexpr float kEps = 1e-6f;

// Rows of a projection, their rotation and where they go. num_kv_heads 0 stands for a layer that
// shares the KV of another one with the same formats.
struct QkvCase {
  QkvCase(const KvShape& shape, int rows, int num_q_heads, int num_kv_heads, bool has_v, int live)
      : shape(shape),
        rows(rows),
        num_q_heads(num_q_heads),
        num_kv_heads(num_kv_heads),
        has_v(has_v),
        live(live) {
    stride = (num_q_heads + (has_v ? 2 : 1) * num_kv_heads) * shape.head_dim + 8;
    qkv = OnDevice(RandomFloats(size_t(rows) * stride, 1, 2.0f));
    q_norm = OnDevice(RandomFloats(shape.head_dim, 2));
    k_norm = OnDevice(RandomFloats(shape.head_dim, 3));
    for (const float angle : RandomFloats(size_t(rows) * live, 4)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
    for (int t = 0; t < rows; ++t) cells.push_back((t * 37 + 5) % (rows * 40));
  }

  int blocks() const { return (rows * 40 >> shape.log2_block_tokens) + 1; }
  int q_values() const { return num_q_heads * shape.head_dim; }
  const float* Head(int t, int head) const {
    return qkv.data() + size_t(t) * stride + head * shape.head_dim;
  }

  // On a copy of qkv, whose q heads are replaced.
  K_WORLD::QkvPostArgs Args(const KvView& view, DeviceVector<float>* copy) const {
    return {.qkv = copy->data(),
            .stride = stride,
            .rows = rows,
            .num_q_heads = num_q_heads,
            .num_kv_heads = num_kv_heads,
            .head_dim = shape.head_dim,
            .has_v = has_v,
            .q_norm = q_norm.data(),
            .k_norm = k_norm.data(),
            .cos = cos.data(),
            .sin = sin.data(),
            .live = live,
            .eps = kEps,
            .kv = view,
            .cells = cells.data()};
  }

  // A head behind its norm and rope, in the kernel's order of f32 operations; weight null: v.
  std::vector<float> NormRope(int t, const float* x, const float* weight) const {
    const int dim = shape.head_dim, half = dim / 2, each = dim / 32;
    float sum[32];
    for (int lane = 0; lane < 32; ++lane) {
      sum[lane] = 0.0f;
      for (int i = lane * each; i < (lane + 1) * each; ++i) {
        sum[lane] = std::fma(x[i], x[i], sum[lane]);
      }
    }
    for (int off = 16; off > 0; off /= 2) {
      for (int lane = 0; lane < off; ++lane) sum[lane] += sum[lane + off];
    }
    const float inverse = 1.0f / std::sqrt(sum[0] / static_cast<float>(dim) + kEps);
    std::vector<float> y;
    for (int i = 0; i < dim; ++i) {
      y.push_back(x[i] * inverse * (weight != nullptr ? weight[i] : 1.0f));
    }
    for (int j = 0; j < (weight != nullptr ? live : 0); ++j) {
      const float c = cos[size_t(t) * live + j], s = sin[size_t(t) * live + j];
      const float a = y[j], b = y[j + half];
      y[j] = std::fma(b, -s, a * c);
      y[j + half] = std::fma(a, s, b * c);
    }
    return y;
  }
  std::vector<float> Q(int t, int head) const { return NormRope(t, Head(t, head), q_norm.data()); }
  std::vector<float> K(int t, int head) const {
    return NormRope(t, Head(t, num_q_heads + head), k_norm.data());
  }
  std::vector<float> V(int t, int head) const {
    return NormRope(t, Head(t, num_q_heads + head + (has_v ? num_kv_heads : 0)), nullptr);
  }

  // The 16-bit values of all q heads that the kernel left in a copy of qkv.
  std::vector<uint16_t> QOf(const DeviceVector<float>& copy) const {
    const int dim = shape.head_dim;
    std::vector<uint16_t> q(size_t(rows) * q_values());
    for (int t = 0; t < rows; ++t) {
      for (int n = 0; n < num_q_heads; ++n) {
        std::memcpy(&q[size_t(t) * q_values() + n * dim], &copy[size_t(t) * stride + n * dim],
                    2 * dim);
      }
    }
    return q;
  }
  std::vector<uint16_t> WantQ() const {
    std::vector<uint16_t> q;
    for (int t = 0; t < rows; ++t) {
      for (int n = 0; n < num_q_heads; ++n) {
        std::vector<float> y = Q(t, n);
        if (KvHasScale(shape.k_format)) {
          RotateReference(y.data(), shape.head_dim, y.data());
          for (float& v : y) v *= shape.head_dim == 256 ? 0.0625f : kKvInverseSqrtDim[3];
        }
        for (const float v : y) {
          q.push_back(shape.k_format == KvFormat::kBf16 ? ToBf16(v).bits : ToF16(v).bits);
        }
      }
    }
    return q;
  }
  void WantRows(PagedKv* kv) const {
    for (int t = 0; t < rows; ++t) {
      if (cells[t] < 0) continue;
      const int block = cells[t] >> shape.log2_block_tokens;
      const int cell = cells[t] - (block << shape.log2_block_tokens);
      for (int h = 0; h < num_kv_heads; ++h) {
        kv->WriteK(block, h, cell, K(t, h));
        kv->WriteV(block, h, cell, V(t, h));
      }
    }
  }

  KvShape shape;
  int rows, num_q_heads, num_kv_heads;
  bool has_v;
  int live, stride;
  DeviceVector<float> qkv, q_norm, k_norm, cos, sin;
  DeviceVector<int32_t> cells;
};

TEST(QkvPostKernelTest, TheOrderOfOperationsMeetsTheReference) {
  for (const int dim : {256, 512}) {
    for (const bool has_v : {true, false}) {
      const KvShape shape = {.head_dim = dim,
                             .num_kv_heads = 2,
                             .k_format = KvFormat::kF32,
                             .v_format = KvFormat::kF32};
      const QkvCase test(shape, 3, 3, 2, has_v, dim == 256 ? 128 : 64);
      DeviceVector<float> qkv = test.qkv;
      PagedKv kv(shape, test.blocks());
      QkvPostReference({.qkv = qkv.data(),
                        .stride = test.stride,
                        .rows = test.rows,
                        .num_q_heads = test.num_q_heads,
                        .num_kv_heads = test.num_kv_heads,
                        .head_dim = dim,
                        .has_v = has_v,
                        .q_norm = test.q_norm.data(),
                        .k_norm = test.k_norm.data(),
                        .cos = test.cos.data(),
                        .sin = test.sin.data(),
                        .live = test.live,
                        .eps = kEps,
                        .kv = kv.view(),
                        .cells = test.cells.data()});
      for (int t = 0; t < test.rows; ++t) {
        const int block = test.cells[t] / 32, cell = test.cells[t] % 32;
        for (int n = 0; n < test.num_q_heads; ++n) {
          const float* want = &qkv[size_t(t) * test.stride + n * dim];
          EXPECT_LE(RelativeError(test.Q(t, n), {want, size_t(dim)}), kFloatTolerance);
        }
        for (int h = 0; h < test.num_kv_heads; ++h) {
          EXPECT_LE(RelativeError(test.K(t, h), kv.ReadK(block, h, cell)), kFloatTolerance);
          EXPECT_LE(RelativeError(test.V(t, h), kv.ReadV(block, h, cell)), kFloatTolerance);
        }
      }
    }
  }
}

TEST(QkvPostKernelTest, EveryPairOfFormatsStoresTheReferencesBytesInEverySchedule) {
  int variant = 0;
  for (const int dim : {256, 512}) {
    for (const KvFormat k_format : kDeviceFormats) {
      for (const KvFormat v_format : kDeviceFormats) {
        SCOPED_TRACE(NameOf(k_format) + "/" + NameOf(v_format) + " " + std::to_string(dim));
        ++variant;
        const KvShape shape = {.head_dim = dim,
                               .num_kv_heads = 1 + variant % 2,
                               .log2_block_tokens = 4 + variant % 3,
                               .k_format = k_format,
                               .v_format = v_format};
        const int live = variant % 4 == 0 ? 16 : variant % 4 == 1 ? 64 : dim / 2;
        const QkvCase test(shape, 3, 1 + variant % 3, shape.num_kv_heads, variant % 5 != 0, live);
        PagedKv want(shape, test.blocks());
        test.WantRows(&want);
        const std::vector<uint16_t> want_q = test.WantQ();
        for (const emu::Schedule& schedule : AllSchedules()) {
          PagedKv kv(shape, test.blocks());
          DeviceVector<float> qkv = test.qkv;
          DeviceVector<K_WORLD::KvRowCounts> counts(1);
          DeviceVector<int32_t> nonfinite(test.rows);
          K_WORLD::QkvPostArgs args = test.Args(kv.view(), &qkv);
          args.nonfinite = nonfinite.data();
          args.counts = counts.data();
          KernelStream stream(schedule, /*os_threads=*/2);
          K_WORLD::QkvPost(args, stream.get());
          ASSERT_EQ(stream.TakeError(), "");
          EXPECT_TRUE(SamePools(kv, want));
          EXPECT_EQ(test.QOf(qkv), want_q);
          EXPECT_EQ(nonfinite, DeviceVector<int32_t>(test.rows));
          for (const uint64_t* count : {counts[0].nonfinite, counts[0].clamped, counts[0].zero}) {
            EXPECT_EQ(count[0] + count[1], 0u);
          }
        }
      }
    }
  }
}

TEST(QkvPostKernelTest, ALayerThatSharesKvRotatesQAsItsDonorAsks) {
  for (const int dim : {256, 512}) {
    for (const KvFormat format : kDeviceFormats) {
      const KvShape shape = {.head_dim = dim, .k_format = format, .v_format = KvFormat::kQ8};
      const QkvCase test(shape, 2, 3, /*num_kv_heads=*/0, true, 64);
      PagedKv donor(shape, 1), untouched(shape, 1);
      DeviceVector<float> qkv = test.qkv;
      KernelStream stream;
      K_WORLD::QkvPost(test.Args(donor.view(), &qkv), stream.get());
      ASSERT_EQ(stream.TakeError(), "");
      EXPECT_EQ(test.QOf(qkv), test.WantQ()) << NameOf(format) << " " << dim;
      EXPECT_TRUE(SamePools(donor, untouched));
    }
  }
}

TEST(QkvPostKernelTest, QTakesTheFirstHalfOfItsHeadAndTheRestStays) {
  const KvShape shape = {.k_format = KvFormat::kTurbo4, .v_format = KvFormat::kQ8};
  const QkvCase test(shape, 3, 4, 1, true, 128);
  PagedKv kv(shape, test.blocks()), want(shape, test.blocks());
  test.WantRows(&want);
  DeviceVector<float> qkv = test.qkv;
  KernelStream stream;
  K_WORLD::QkvPost(test.Args(kv.view(), &qkv), stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  EXPECT_TRUE(SamePools(kv, want));
  EXPECT_EQ(test.QOf(qkv), test.WantQ());
  for (int t = 0; t < test.rows; ++t) {
    for (int i = 0; i < test.stride; ++i) {
      const bool is_q = i < test.q_values() && i % shape.head_dim < shape.head_dim / 2;
      const size_t at = size_t(t) * test.stride + i;
      if (!is_q) {
        ASSERT_EQ(qkv[at], test.qkv[at]) << "row " << t << " column " << i;
      }
    }
  }
}

TEST(QkvPostKernelTest, ARowWithoutACellStoresNothingAndStillHasItsQ) {
  const KvShape shape = {.k_format = KvFormat::kQ8, .v_format = KvFormat::kTurbo3};
  QkvCase test(shape, 4, 2, 1, true, 128);
  test.cells[1] = test.cells[3] = -1;
  PagedKv kv(shape, test.blocks()), want(shape, test.blocks());
  test.WantRows(&want);
  DeviceVector<float> qkv = test.qkv;
  KernelStream stream;
  K_WORLD::QkvPost(test.Args(kv.view(), &qkv), stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  EXPECT_TRUE(SamePools(kv, want));
  EXPECT_EQ(test.QOf(qkv), test.WantQ());
}

TEST(QkvPostKernelTest, ARowsBitsDoNotDependOnItsNeighbours) {
  const KvShape shape = {
      .head_dim = 512, .k_format = KvFormat::kTurbo4, .v_format = KvFormat::kTurbo2};
  const QkvCase test(shape, 5, 2, 1, false, 64);
  PagedKv together(shape, test.blocks()), alone(shape, test.blocks());
  DeviceVector<float> qkv = test.qkv, one_by_one = test.qkv;
  KernelStream stream;
  K_WORLD::QkvPost(test.Args(together.view(), &qkv), stream.get());
  for (int t = test.rows - 1; t >= 0; --t) {
    K_WORLD::QkvPostArgs args = test.Args(alone.view(), &one_by_one);
    args.rows = 1;
    args.qkv += int64_t{t} * test.stride;
    args.cos += t * test.live;
    args.sin += t * test.live;
    args.cells += t;
    K_WORLD::QkvPost(args, stream.get());
  }
  ASSERT_EQ(stream.TakeError(), "");
  EXPECT_EQ(test.QOf(one_by_one), test.QOf(qkv));
  EXPECT_TRUE(SamePools(together, alone));
}

TEST(QkvPostKernelTest, ARowThatIsNotFiniteIsMarkedAndItsNeighboursAreNot) {
  for (const KvFormat format : kScaledFormats) {
    SCOPED_TRACE(NameOf(format));
    const KvShape shape = {.num_kv_heads = 2, .k_format = format, .v_format = format};
    QkvCase test(shape, 3, 1, 2, true, 128);
    // Given a NaN in row 1's second k head, and both v heads of row 2 with an infinity.
    const float inf = std::numeric_limits<float>::infinity();
    test.qkv[test.stride + 2 * 256 + 77] = std::numeric_limits<float>::quiet_NaN();
    test.qkv[2 * test.stride + 3 * 256] = test.qkv[2 * test.stride + 5 * 256 - 1] = inf;
    PagedKv kv(shape, test.blocks()), want(shape, test.blocks());
    test.WantRows(&want);
    DeviceVector<float> qkv = test.qkv;
    DeviceVector<K_WORLD::KvRowCounts> counts(1);
    DeviceVector<int32_t> nonfinite(test.rows);
    K_WORLD::QkvPostArgs args = test.Args(kv.view(), &qkv);
    args.nonfinite = nonfinite.data();
    args.counts = counts.data();
    KernelStream stream;
    K_WORLD::QkvPost(args, stream.get());
    ASSERT_EQ(stream.TakeError(), "");
    EXPECT_TRUE(SamePools(kv, want));
    EXPECT_EQ(nonfinite, (DeviceVector<int32_t>{0, 1, 2}));
    EXPECT_EQ(counts[0].nonfinite[0], 1u);
    EXPECT_EQ(counts[0].nonfinite[1], 2u);
  }
}

TEST(QkvPostKernelTest, AZeroProjectionIsStoredAsZeroRowsAndCounted) {
  const KvShape shape = {.k_format = KvFormat::kTurbo3, .v_format = KvFormat::kQ8};
  QkvCase test(shape, 2, 1, 1, true, 128);
  std::fill(test.qkv.begin(), test.qkv.end(), 0.0f);
  PagedKv kv(shape, test.blocks()), want(shape, test.blocks());
  test.WantRows(&want);
  DeviceVector<float> qkv = test.qkv;
  DeviceVector<K_WORLD::KvRowCounts> counts(1);
  K_WORLD::QkvPostArgs args = test.Args(kv.view(), &qkv);
  args.counts = counts.data();
  KernelStream stream;
  K_WORLD::QkvPost(args, stream.get());
  ASSERT_EQ(stream.TakeError(), "");
  EXPECT_TRUE(SamePools(kv, want));
  EXPECT_EQ(counts[0].zero[0], 2u);
  EXPECT_EQ(counts[0].zero[1], 2u);
}

TEST(QkvPostKernelTest, MovesTheBytesOfItsFormula) {
  for (const int dim : {256, 512}) {
    const KvShape shape = {.head_dim = dim,
                           .num_kv_heads = 2,
                           .k_format = KvFormat::kQ8,
                           .v_format = KvFormat::kTurbo3};
    const int rows = 3, q_heads = 4, kv_heads = 2, live = 64;
    for (const bool has_v : {true, false}) {
      const QkvCase test(shape, rows, q_heads, kv_heads, has_v, live);
      PagedKv kv(shape, test.blocks());
      DeviceVector<float> qkv = test.qkv;
      KernelStream stream;
      K_WORLD::QkvPost(test.Args(kv.view(), &qkv), stream.get());
      ASSERT_EQ(stream.TakeError(), "");
      const emu::TrafficBytes traffic = stream.TakeTraffic();
      if (!kCountsTraffic) continue;
      EXPECT_EQ(traffic.read,
                rows * ((q_heads + 2 * kv_heads) * 4u * dim +
                        (q_heads + kv_heads) * (4u * dim + 16 * live) + 2 * kv_heads * 32 * 4));
      EXPECT_EQ(traffic.written,
                rows * (q_heads * 2u * dim + kv_heads * (dim + 2 + dim * 3 / 8 + 2)));
    }
  }
}

TEST(QkvPostShapesTest, LayersWithoutAKernelAreTold) {
  for (const KvFormat k_format : kDeviceFormats) {
    for (const KvFormat v_format : kDeviceFormats) {
      EXPECT_TRUE(K_WORLD::QkvPostSupports(256, 128, k_format, v_format));
      EXPECT_TRUE(K_WORLD::QkvPostSupports(512, 64, k_format, v_format));
    }
  }
  const KvFormat q8 = KvFormat::kQ8;
  EXPECT_FALSE(K_WORLD::QkvPostSupports(128, 64, q8, q8));
  EXPECT_FALSE(K_WORLD::QkvPostSupports(256, 24, q8, q8));
  EXPECT_FALSE(K_WORLD::QkvPostSupports(256, 144, q8, q8));
  EXPECT_FALSE(K_WORLD::QkvPostSupports(256, -16, q8, q8));
  EXPECT_FALSE(K_WORLD::QkvPostSupports(256, 128, KvFormat::kF32, q8));
  EXPECT_FALSE(K_WORLD::QkvPostSupports(256, 128, q8, KvFormat::kF32));
}

TEST(QkvPostShapesTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::QkvPost({.num_q_heads = 2, .head_dim = 256}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
