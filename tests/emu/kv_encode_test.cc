// The CUDA encoder of KV rows under emulation: the bytes of the reference and of published vectors.
#include "kernels/cuda/kv_encode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "kernels/reference/kv_row_ref.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/kv_pools.h"
#include "tests/emu/schedules.h"
#include "tests/kernels/kv_rows.h"
#include "tests/kernels/kv_sample_rows.h"
#include "tests/kernels/paged_kv.h"

namespace tandem::kernels {
namespace {

// Rows of one size and format, row t in cell t of a pool of one head: what the kernel makes of them
// beside what the reference does.
struct RowsCase {
  RowsCase(int dim, KvFormat format, const std::vector<std::vector<float>>& rows, bool store_v)
      : dim(dim),
        count(static_cast<int>(rows.size())),
        store_v(store_v),
        shape{.head_dim = dim,
              .k_format = store_v ? KvFormat::kF16 : format,
              .v_format = store_v ? format : KvFormat::kTurbo3},
        kv(shape, count / 32 + 1),
        want(shape, count / 32 + 1) {
    for (int t = 0; t < count; ++t) {
      x.insert(x.end(), rows[t].begin(), rows[t].end());
      cells.push_back(t);
      const KvRowStatus status =
          EncodeRowReference(rows[t].data(), format, dim, RowIn(want.view(), t));
      want_nonfinite.push_back(status == KvRowStatus::kNonfinite ? 1 : 0);
      ++want_statuses[static_cast<int>(status)];
    }
    nonfinite.resize(count);
  }

  KvRow RowIn(const KvView& view, int t) const {
    return store_v ? VRowAt(view, t / 32, 0, t % 32, dim) : KRowAt(view, t / 32, 0, t % 32, dim);
  }

  void Run(KernelStream* stream) {
    K_WORLD::EncodeKvRows({.x = x.data(),
                           .rows = count,
                           .num_heads = 1,
                           .head_dim = dim,
                           .kv = kv.view(),
                           .store_v = store_v,
                           .cells = cells.data(),
                           .nonfinite = nonfinite.data(),
                           .counts = counts.data()},
                          stream->get());
    ASSERT_EQ(stream->TakeError(), "");
  }

  // Every byte of the pool, those between the rows too, and what is told of the rows.
  void ExpectReference() const {
    EXPECT_TRUE(SamePools(kv, want));
    EXPECT_EQ(nonfinite, want_nonfinite);
    const int side = store_v ? 1 : 0;
    EXPECT_EQ(counts[0].zero[side], want_statuses[static_cast<int>(KvRowStatus::kZero)]);
    EXPECT_EQ(counts[0].clamped[side], want_statuses[static_cast<int>(KvRowStatus::kClamped)]);
    EXPECT_EQ(counts[0].nonfinite[side], want_statuses[static_cast<int>(KvRowStatus::kNonfinite)]);
    EXPECT_EQ(
        counts[0].zero[1 - side] + counts[0].clamped[1 - side] + counts[0].nonfinite[1 - side], 0u);
  }

  int dim, count;
  bool store_v;
  KvShape shape;
  PagedKv kv, want;
  std::vector<float> x;
  std::vector<int32_t> cells;
  std::vector<int32_t> nonfinite, want_nonfinite;
  std::vector<K_WORLD::KvRowCounts> counts = std::vector<K_WORLD::KvRowCounts>(1);
  uint64_t want_statuses[4] = {};
};

class EncodeKvRowsTest : public testing::TestWithParam<int> {};

INSTANTIATE_TEST_SUITE_P(Sizes, EncodeKvRowsTest, testing::Values(256, 512),
                         testing::PrintToStringParamName());

TEST_P(EncodeKvRowsTest, ScalesAndBytesEqualThePublishedVectors) {
  const int dim = GetParam();
  struct Golden {
    std::vector<float> x;
    uint16_t scale[4];  // kScaledFormats
    uint32_t crc[4];
  };
  std::vector<Golden> goldens;
  if (dim == 512) {
    goldens.push_back({GoldenRow(512),
                       {0x451f, 0x418e, 0x40a2, 0x3e5a},
                       {0x3616c9fa, 0x0c7ebbb9, 0x481cf27d, 0xf51072ec}});
  } else {
    goldens.push_back({GoldenRow(256),
                       {0x4544, 0x419c, 0x4097, 0x3e8a},
                       {0x4132da81, 0x63c33cc0, 0x29bf99f2, 0x9878719f}});
    goldens.push_back({std::vector<float>(256, 1.0f),
                       {0x420c, 0x3e41, 0x3d26, 0x3a6c},
                       {0xe01d7fbe, 0x762a391a, 0xbfa80fe4, 0x8a857a0b}});
    goldens.push_back({UnitVector(256, 0),
                       {0x2c08, 0x2e7b, 0x2ea6, 0x2852},
                       {0x30793e6c, 0x3c411cb3, 0x1fa99d01, 0x758d6336}});
  }
  for (const Golden& golden : goldens) {
    for (int f = 0; f < 4; ++f) {
      SCOPED_TRACE(NameOf(kScaledFormats[f]));
      RowsCase test(dim, kScaledFormats[f], {golden.x}, /*store_v=*/false);
      KernelStream stream;
      test.Run(&stream);
      const KvRow row = test.RowIn(test.kv.view(), 0);
      EXPECT_EQ(row.scale->bits, golden.scale[f]);
      const bool two_planes = row.high_bits != nullptr;
      std::vector<std::byte> bytes(
          row.codes, row.codes + (two_planes ? dim / 4 : KvRowBytes(kScaledFormats[f], dim)));
      if (two_planes) bytes.insert(bytes.end(), row.high_bits, row.high_bits + dim / 8);
      EXPECT_EQ(Crc32(bytes), golden.crc[f]);
    }
  }
}

TEST_P(EncodeKvRowsTest, RandomRowsHaveTheReferencesBytes) {
  const int dim = GetParam();
  uint64_t statuses[4] = {};
  for (const KvFormat format : kDeviceFormats) {
    for (const bool store_v : {false, true}) {
      SCOPED_TRACE(NameOf(format) + (store_v ? " V" : " K"));
      RowSource source(dim + static_cast<int>(format) + (store_v ? 100 : 0));
      std::vector<std::vector<float>> rows;
      for (int i = 0; i < 2500; ++i) rows.push_back(source.Next(dim));
      RowsCase test(dim, format, rows, store_v);
      KernelStream stream({emu::Order::kForward}, /*os_threads=*/2);
      test.Run(&stream);
      test.ExpectReference();
      for (int i = 0; i < 4; ++i) statuses[i] += test.want_statuses[i];
    }
  }
  // The rows are of all kinds.
  for (const uint64_t count : statuses) EXPECT_GT(count, 100u);
}

TEST_P(EncodeKvRowsTest, EveryScheduleStoresTheReferencesBytes) {
  const int dim = GetParam();
  RowSource source(dim);
  std::vector<std::vector<float>> rows;
  for (int i = 0; i < 35; ++i) rows.push_back(source.Next(dim));
  for (const KvFormat format : kDeviceFormats) {
    for (const emu::Schedule& schedule : AllSchedules()) {
      SCOPED_TRACE(NameOf(format));
      RowsCase test(dim, format, rows, /*store_v=*/true);
      KernelStream stream(schedule, /*os_threads=*/2);
      test.Run(&stream);
      test.ExpectReference();
    }
  }
}

TEST_P(EncodeKvRowsTest, CoordinatesAtAThresholdAndMinusZeroFallOnTheReferencesSide) {
  const int dim = GetParam();
  for (const KvFormat format : kTurboFormats) {
    SCOPED_TRACE(NameOf(format));
    const KvCodebook& book = CodebookOf(format);
    std::vector<std::vector<float>> rows = {RowWithMinusZero(dim)};
    for (int k = 0; k + 1 < book.num_magnitudes; ++k) {
      for (int seed = 0; seed < 20; ++seed) {
        const std::vector<float> background = RandomFloats(dim, seed);
        for (int step = -8; step <= 8; ++step) {
          // Given a coordinate within a few roundings of the threshold.
          const double u = book.thresholds[k] * (1.0 + std::ldexp(step, -24));
          rows.push_back(RowWithCoordinate(background, seed * 12, u, book));
        }
      }
    }
    RowsCase test(dim, format, rows, /*store_v=*/false);
    KernelStream stream({emu::Order::kForward}, /*os_threads=*/2);
    test.Run(&stream);
    test.ExpectReference();
  }
}

TEST_P(EncodeKvRowsTest, NaNOrInfinityAnywhereMakesARowOfZerosAndIsTold) {
  const int dim = GetParam();
  const std::vector<float> finite = RandomFloats(dim, 3);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  // Given a finite row before each other one.
  std::vector<std::vector<float>> rows;
  for (int i = 0; i < dim; ++i) {
    const float bad[] = {std::numeric_limits<float>::quiet_NaN(), kInf, -kInf};
    rows.push_back(finite);
    rows.push_back(finite);
    rows.back()[i] = bad[i % 3];
  }
  for (const KvFormat format : kScaledFormats) {
    SCOPED_TRACE(NameOf(format));
    RowsCase test(dim, format, rows, /*store_v=*/format == KvFormat::kTurbo3);
    KernelStream stream({emu::Order::kForward}, /*os_threads=*/2);
    test.Run(&stream);
    test.ExpectReference();
    EXPECT_EQ(test.want_statuses[static_cast<int>(KvRowStatus::kNonfinite)], uint64_t(dim));
    EXPECT_EQ(test.want_statuses[static_cast<int>(KvRowStatus::kOk)], uint64_t(dim));
    const KvRow bad = test.RowIn(test.kv.view(), 1);
    EXPECT_EQ(bad.scale->bits, 0);
    for (int i = 0; i < dim / 4; ++i) ASSERT_EQ(bad.codes[i], std::byte{0}) << i;
  }
}

TEST_P(EncodeKvRowsTest, ZeroHugeAndOverflowingRowsAreTheReferencesAndAreTold) {
  const int dim = GetParam();
  std::vector<float> large = RandomFloats(dim, 1), huge = large;
  for (float& value : large) value *= static_cast<float>(1e6 / Norm(huge));
  for (float& value : huge) value *= 1e15f;
  std::vector<std::vector<float>> rows = {large, huge, std::vector<float>(dim, 1e19f)};
  for (const float value : {0.0f, -0.0f, 1e-40f, 1e-20f}) {
    rows.push_back(std::vector<float>(dim, value));
  }
  for (const KvFormat format : kScaledFormats) {
    SCOPED_TRACE(NameOf(format));
    RowsCase test(dim, format, rows, /*store_v=*/false);
    KernelStream stream;
    test.Run(&stream);
    test.ExpectReference();
    EXPECT_EQ(test.counts[0].zero[0], 4u);
    EXPECT_EQ(test.counts[0].nonfinite[0], 1u);
    EXPECT_GE(test.counts[0].clamped[0], 1u);
    EXPECT_EQ(test.RowIn(test.kv.view(), 1).scale->bits, 0x7bff);
  }
}

TEST_P(EncodeKvRowsTest, HeadsGoToTheirOwnPartsOfTheRowsBlockAndRowsWithoutACellNowhere) {
  const int dim = GetParam(), heads = 3;
  for (const int log2_block_tokens : {4, 5, 6}) {
    const KvShape shape = {.head_dim = dim,
                           .num_kv_heads = heads,
                           .log2_block_tokens = log2_block_tokens,
                           .k_format = KvFormat::kTurbo3,
                           .v_format = KvFormat::kTurbo4};
    const std::vector<int32_t> cells = {(5 << log2_block_tokens) + 11, -1, 3,
                                        (1 << log2_block_tokens) - 1};
    const int rows = static_cast<int>(cells.size());
    const std::vector<float> x = RandomFloats(size_t(rows) * heads * dim, 5);
    PagedKv kv(shape, 7), want(shape, 7);
    for (int t = 0; t < rows; ++t) {
      if (cells[t] < 0) continue;
      for (int h = 0; h < heads; ++h) {
        want.WriteK(cells[t] >> log2_block_tokens, h, cells[t] % (1 << log2_block_tokens),
                    std::span(x).subspan((size_t(t) * heads + h) * dim, dim));
      }
    }
    KernelStream stream;
    K_WORLD::EncodeKvRows({.x = x.data(),
                           .rows = rows,
                           .num_heads = heads,
                           .head_dim = dim,
                           .kv = kv.view(),
                           .cells = cells.data()},
                          stream.get());
    ASSERT_EQ(stream.TakeError(), "");
    EXPECT_TRUE(SamePools(kv, want)) << log2_block_tokens;
  }
}

TEST_P(EncodeKvRowsTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) GTEST_SKIP() << "only emulation counts bytes";
  const int dim = GetParam(), rows = 9;
  for (const KvFormat format : kDeviceFormats) {
    RowsCase test(dim, format, std::vector<std::vector<float>>(rows, RandomFloats(dim, 1)), true);
    KernelStream stream;
    test.Run(&stream);
    const emu::TrafficBytes traffic = stream.TakeTraffic();
    EXPECT_EQ(traffic.read, rows * (4u * dim + 32 * 4)) << NameOf(format);
    EXPECT_EQ(traffic.written, rows * (KvRowBytes(format, dim) + (KvHasScale(format) ? 2 : 0)))
        << NameOf(format);
  }
}

TEST(EncodeKvRowsShapesTest, SizesAndFormatsWithoutAKernelAreTold) {
  for (const KvFormat format : kDeviceFormats) {
    EXPECT_TRUE(K_WORLD::EncodeKvRowsSupports(256, format)) << NameOf(format);
    EXPECT_TRUE(K_WORLD::EncodeKvRowsSupports(512, format)) << NameOf(format);
    EXPECT_FALSE(K_WORLD::EncodeKvRowsSupports(128, format)) << NameOf(format);
  }
  EXPECT_FALSE(K_WORLD::EncodeKvRowsSupports(256, KvFormat::kF32));
}

TEST(EncodeKvRowsShapesTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::EncodeKvRows({.num_heads = 2, .head_dim = 256}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
