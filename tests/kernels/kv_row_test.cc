// Bytes of KV rows: every level against published vectors and against the plain loops, and the rows
// that are not ordinary.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <span>

#include "tests/kernels/kv_rows.h"
#include "tests/kernels/kv_sample_rows.h"

namespace tandem::kernels {
namespace {

using testing::ElementsAreArray;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class KvRowTest : public testing::TestWithParam<CpuIsa> {
 protected:
  RowEncoder encode_ = EncoderAt(GetParam());
};

INSTANTIATE_TEST_SUITE_P(Levels, KvRowTest, testing::ValuesIn(Levels()), LevelName);

struct Golden {
  int dim;
  KvFormat format;
  uint16_t scale;
  uint32_t crc;
};

TEST_P(KvRowTest, ScalesAndBytesEqualThePublishedVectors) {
  constexpr Golden kGolden[] = {
      {512, KvFormat::kQ8, 0x451f, 0x3616c9fa},     {512, KvFormat::kTurbo4, 0x418e, 0x0c7ebbb9},
      {512, KvFormat::kTurbo3, 0x40a2, 0x481cf27d}, {512, KvFormat::kTurbo2, 0x3e5a, 0xf51072ec},
      {256, KvFormat::kQ8, 0x4544, 0x4132da81},     {256, KvFormat::kTurbo4, 0x419c, 0x63c33cc0},
      {256, KvFormat::kTurbo3, 0x4097, 0x29bf99f2}, {256, KvFormat::kTurbo2, 0x3e8a, 0x9878719f},
      {128, KvFormat::kQ8, 0x4669, 0x247ab3a8},     {128, KvFormat::kTurbo4, 0x41b2, 0x8f53f18a},
      {128, KvFormat::kTurbo3, 0x40de, 0x03b310cc}, {128, KvFormat::kTurbo2, 0x3e52, 0xe6d40fca},
      {64, KvFormat::kQ8, 0x447f, 0x15a7b3f3},      {64, KvFormat::kTurbo4, 0x4194, 0xd9c9cd6c},
      {64, KvFormat::kTurbo3, 0x40c3, 0x9cd0ebe5},  {64, KvFormat::kTurbo2, 0x3e49, 0x9d42e975}};
  ASSERT_EQ(Crc32(std::as_bytes(std::span("123456789", 9))), 0xcbf43926u);
  for (const Golden& golden : kGolden) {
    SCOPED_TRACE(testing::Message() << NameOf(golden.format) << " dim " << golden.dim);
    StoredRow stored(golden.format, golden.dim);
    EXPECT_EQ(stored.Encode(encode_, GoldenRow(golden.dim)), KvRowStatus::kOk);
    EXPECT_EQ(stored.scale_bits(), golden.scale);
    EXPECT_EQ(Crc32(stored.bytes()), golden.crc);
  }
}

TEST_P(KvRowTest, ConstantAndUnitRowsEqualThePublishedVectors) {
  struct Special {
    std::vector<float> x;
    uint16_t scale[4];
    uint32_t crc[4];
  };
  const Special specials[] = {{std::vector<float>(256, 1.0f),
                               {0x420c, 0x3e41, 0x3d26, 0x3a6c},
                               {0xe01d7fbe, 0x762a391a, 0xbfa80fe4, 0x8a857a0b}},
                              {UnitVector(256, 0),
                               {0x2c08, 0x2e7b, 0x2ea6, 0x2852},
                               {0x30793e6c, 0x3c411cb3, 0x1fa99d01, 0x758d6336}}};
  for (const Special& special : specials) {
    for (int f = 0; f < 4; ++f) {
      SCOPED_TRACE(NameOf(kScaledFormats[f]));
      StoredRow stored(kScaledFormats[f], 256);
      EXPECT_EQ(stored.Encode(encode_, special.x), KvRowStatus::kOk);
      EXPECT_EQ(stored.scale_bits(), special.scale[f]);
      EXPECT_EQ(Crc32(stored.bytes()), special.crc[f]);
    }
  }
}

TEST(KvRowDecodeTest, CodesAndErrorsEqualThePublishedVectors) {
  struct Decoded {
    int dim;
    KvFormat format;
    std::vector<int> first;
    double error;
  };
  const Decoded decoded[] = {
      {256, KvFormat::kQ8, {37, 65, 3, -35, 35, -29, -1, 47}, 0.000043},
      {256, KvFormat::kTurbo4, {79, 135, 11, -55, 55, -55, -11, 79}, 0.007701},
      {256, KvFormat::kTurbo3, {77, 137, 25, -77, 77, -77, -25, 77}, 0.032392},
      {256, KvFormat::kTurbo2, {71, 237, 71, -71, 71, -71, -71, 237}, 0.123060},
      {512, KvFormat::kQ8, {31, 36, 31, -4, 101, -28, -25, 48}, 0.000040},
      {512, KvFormat::kTurbo4, {55, 55, 55, -11, 173, -55, -55, 79}, 0.008998},
      {512, KvFormat::kTurbo3, {77, 77, 77, -25, 219, -77, -77, 137}, 0.029494},
      {512, KvFormat::kTurbo2, {71, 71, 71, -71, 237, -71, -71, 237}, 0.106549}};
  for (const Decoded& want : decoded) {
    SCOPED_TRACE(testing::Message() << NameOf(want.format) << " dim " << want.dim);
    const std::vector<float> x = GoldenRow(want.dim);
    StoredRow stored(want.format, want.dim);
    stored.Encode(EncodeRowReference, x);
    std::vector<int> first = stored.Codes();
    first.resize(8);
    EXPECT_EQ(first, want.first);
    const double error = RelativeError(stored.Restored(), x);
    EXPECT_NEAR(error * error, want.error, 0.6e-6);
  }
}

TEST_P(KvRowTest, EveryLevelOfEveryDimensionIsPackedAndUnpacked) {
  for (const KvFormat format : kTurboFormats) {
    const KvCodebook& book = CodebookOf(format);
    for (const int dim : kScaledDims) {
      SCOPED_TRACE(testing::Message() << NameOf(format) << " dim " << dim);
      const std::vector<float> background = RandomFloats(dim, dim);
      for (int i = 0; i < dim; ++i) {
        for (int level = 0; level < 2 * book.num_magnitudes; ++level) {
          const int code = book.magnitudes[level / 2] * (level % 2 == 0 ? 1 : -1);
          const std::vector<float> x = RowWithCoordinate(background, i, code, book);
          StoredRow stored(format, dim), want(format, dim);
          stored.Encode(encode_, x);
          ASSERT_EQ(stored.Codes()[i], code) << "dimension " << i;
          want.Encode(EncodeRowReference, x);
          ASSERT_TRUE(stored == want) << "dimension " << i << " level " << level;
        }
      }
    }
  }
}

TEST_P(KvRowTest, CoordinatesAtAThresholdFallOnTheReferencesSide) {
  for (const KvFormat format : kTurboFormats) {
    const KvCodebook& book = CodebookOf(format);
    for (int k = 0; k + 1 < book.num_magnitudes; ++k) {
      bool below = false, above = false;
      for (int seed = 0; seed < 40; ++seed) {
        const std::vector<float> background = RandomFloats(256, seed);
        for (int step = -8; step <= 8; ++step) {
          // Given a coordinate within a few roundings of the threshold.
          const double u = book.thresholds[k] * (1.0 + std::ldexp(step, -24));
          const std::vector<float> x = RowWithCoordinate(background, seed, u, book);
          StoredRow stored(format, 256), want(format, 256);
          stored.Encode(encode_, x);
          want.Encode(EncodeRowReference, x);
          ASSERT_TRUE(stored == want) << NameOf(format) << " " << k << " seed " << seed;
          const int code = stored.Codes()[seed];
          ASSERT_TRUE(code == book.magnitudes[k] || code == book.magnitudes[k + 1]) << code;
          (code == book.magnitudes[k] ? below : above) = true;
        }
      }
      EXPECT_TRUE(below && above);
    }
  }
}

TEST_P(KvRowTest, ARotatedCoordinateOfMinusZeroIsPositive) {
  for (const KvFormat format : kTurboFormats) {
    for (const int dim : kScaledDims) {
      const std::vector<float> x = RowWithMinusZero(dim);
      std::vector<float> y(dim);
      RotateReference(x.data(), dim, y.data());
      ASSERT_TRUE(y[dim / 2] == 0.0f && std::signbit(y[dim / 2]));
      StoredRow stored(format, dim);
      stored.Encode(encode_, x);
      EXPECT_EQ(stored.Codes()[dim / 2], CodebookOf(format).magnitudes[0]);
    }
  }
}

TEST_P(KvRowTest, EveryByteOfEveryDimensionIsStoredInQ8) {
  for (const int dim : kScaledDims) {
    for (int shift = 0; shift < 255; ++shift) {
      // Given whole rotated coordinates with a largest magnitude of 127: each is its own code.
      std::vector<float> x(dim);
      std::vector<int> want(dim);
      for (int i = 0; i < dim; ++i) {
        want[i] = (i * 7 + shift) % 255 - 127;
        x[i] = static_cast<float>(want[i]);
      }
      const int peak = (shift * 31 + 5) % dim;
      x[peak] = want[peak] < 0 ? -127.0f : 127.0f;
      want[peak] = static_cast<int>(x[peak]);
      UnrotateReference(x.data(), dim, x.data());
      for (float& value : x) value *= kKvInverseSqrtDim[std::countr_zero(unsigned(dim)) - 6];
      StoredRow stored(KvFormat::kQ8, dim);
      EXPECT_EQ(stored.Encode(encode_, x), KvRowStatus::kOk);
      ASSERT_EQ(stored.Codes(), want) << "dim " << dim << " shift " << shift;
    }
  }
}

TEST(KvRowLevelsTest, EveryLevelStoresTheReferencesBytes) {
  constexpr int kRows = 5000;  // of each format and size
  int statuses[4] = {};
  for (const KvFormat format : kAllFormats) {
    for (const int dim : kScaledDims) {
      SCOPED_TRACE(testing::Message() << NameOf(format) << " dim " << dim);
      RowSource source(dim + static_cast<int>(format));
      for (int i = 0; i < kRows; ++i) {
        const std::vector<float> x = source.Next(dim);
        StoredRow want(format, dim);
        const KvRowStatus status = want.Encode(EncodeRowReference, x);
        ++statuses[static_cast<int>(status)];
        for (const CpuIsa isa : VectorLevels()) {
          StoredRow got(format, dim);
          ASSERT_EQ(got.Encode(EncoderAt(isa), x), status) << CpuIsaName(isa) << " row " << i;
          ASSERT_TRUE(got == want) << CpuIsaName(isa) << " row " << i;
        }
      }
    }
  }
  // The rows are of all kinds.
  for (const int count : statuses) EXPECT_GT(count, 500);
}

TEST_P(KvRowTest, TheZeroRowIsZeroBytesAndDecodesToZero) {
  for (const KvFormat format : kScaledFormats) {
    for (const int dim : kScaledDims) {
      for (const float value : {0.0f, -0.0f, 1e-40f, 1e-20f}) {
        SCOPED_TRACE(testing::Message() << NameOf(format) << " dim " << dim << " of " << value);
        StoredRow stored(format, dim);
        EXPECT_EQ(stored.Encode(encode_, std::vector<float>(dim, value)), KvRowStatus::kZero);
        EXPECT_TRUE(stored.IsZeroBytes());
        EXPECT_EQ(stored.Values(), std::vector<float>(dim));
      }
    }
  }
}

TEST_P(KvRowTest, ARowThatOverflowsIsNotFinite) {
  for (const KvFormat format : kScaledFormats) {
    for (const int dim : kScaledDims) {
      StoredRow stored(format, dim);
      EXPECT_EQ(stored.Encode(encode_, std::vector<float>(dim, 1e19f)), KvRowStatus::kNonfinite);
      EXPECT_TRUE(stored.IsZeroBytes());
    }
  }
}

TEST_P(KvRowTest, NaNOrInfinityAnywhereMakesARowOfZeros) {
  for (const KvFormat format : kScaledFormats) {
    for (const int dim : kScaledDims) {
      const std::vector<float> finite = RandomFloats(dim, 3);
      for (int i = 0; i < dim; ++i) {
        for (const float value : {kNaN, kInf, -kInf}) {
          std::vector<float> x = finite;
          x[i] = value;
          StoredRow stored(format, dim);
          ASSERT_EQ(stored.Encode(encode_, x), KvRowStatus::kNonfinite) << i;
          ASSERT_TRUE(stored.IsZeroBytes()) << i;
        }
      }
    }
  }
}

TEST_P(KvRowTest, AScaleAboveTheLargestF16IsCut) {
  std::vector<float> x = RandomFloats(256, 1);
  const float by = static_cast<float>(1e6 / Norm(x));
  for (float& value : x) value *= by;
  for (const KvFormat format : kScaledFormats) {
    SCOPED_TRACE(NameOf(format));
    StoredRow stored(format, 256);
    const bool fits = format == KvFormat::kTurbo2;
    EXPECT_EQ(stored.Encode(encode_, x), fits ? KvRowStatus::kOk : KvRowStatus::kClamped);
    EXPECT_EQ(stored.scale_bits() == 0x7bff, !fits);
    for (const float value : stored.Restored()) EXPECT_TRUE(std::isfinite(value));
  }
}

TEST_P(KvRowTest, ASmallRowKeepsItsNormInASubnormalScale) {
  std::vector<float> x = RandomFloats(256, 2);
  const float by = static_cast<float>(1e-4 / Norm(x));
  for (float& value : x) value *= by;
  for (const KvFormat format : kScaledFormats) {
    StoredRow stored(format, 256);
    EXPECT_EQ(stored.Encode(encode_, x), KvRowStatus::kOk);
    EXPECT_LT(stored.scale_bits(), 0x0400) << NameOf(format);
    EXPECT_NEAR(Norm(stored.Restored()), 1e-4, 1e-5) << NameOf(format);
  }
}

TEST_P(KvRowTest, EveryUnitRowComesBackAsItIs) {
  for (const KvFormat format : kScaledFormats) {
    for (const int dim : kScaledDims) {
      for (int i = 0; i < dim; ++i) {
        // All rotated coordinates have one magnitude, so only the scale is rounded.
        const std::vector<float> x = UnitVector(dim, i);
        StoredRow stored(format, dim);
        stored.Encode(encode_, x);
        ASSERT_LE(RelativeError(stored.Restored(), x), 6e-4) << NameOf(format) << " " << dim;
      }
    }
  }
}

TEST_P(KvRowTest, ARowAlongTheSignsKeepsItsNorm) {
  for (const KvFormat format : kScaledFormats) {
    for (const int dim : kScaledDims) {
      // Rotated, it is a single coordinate.
      std::vector<float> x(dim);
      for (int i = 0; i < dim; ++i) x[i] = (kKvSignWords[i / 64] >> (i % 64) & 1) != 0 ? -1 : 1;
      StoredRow stored(format, dim);
      EXPECT_EQ(stored.Encode(encode_, x), KvRowStatus::kOk);
      EXPECT_NEAR(Norm(stored.Restored()) / Norm(x), 1.0, 6e-4) << NameOf(format) << " " << dim;
    }
  }
}

TEST_P(KvRowTest, ARowAtAnyAddressHasTheSameBytes) {
  const std::vector<float> x = RandomFloats(512, 8);
  for (const KvFormat format : kAllFormats) {
    StoredRow want(format, 512);
    want.Encode(encode_, x);
    std::vector<std::byte> codes(KvRowBytes(format, 512) + 8);
    for (const int offset : {0, 1, 4}) {
      std::vector<float> moved(513);
      std::copy(x.begin(), x.end(), moved.begin() + offset % 2);
      F16 scale;
      KvRow row = {.codes = codes.data() + offset};
      if (format == KvFormat::kTurbo3) row.high_bits = row.codes + 128;
      if (KvHasScale(format)) row.scale = &scale;
      encode_(moved.data() + offset % 2, format, 512, row);
      const std::span<const std::byte> bytes(row.codes, want.bytes().size());
      EXPECT_THAT(bytes, ElementsAreArray(want.bytes())) << NameOf(format) << " " << offset;
    }
  }
}

TEST_P(KvRowTest, SixteenBitFormatsAreTheValuesRoundedToNearestEven) {
  // Every exponent and sign, both sides of each kind of tie, NaN whose payload is all low.
  std::vector<float> x;
  for (uint32_t high = 0; high < 0x10000; high += 3) {
    for (const uint32_t low : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x7fffu, 0x8000u,
                               0x8001u, 0xf000u, 0xffffu}) {
      x.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  x.resize((x.size() + 511) / 512 * 512, 1.0f);
  uint16_t got[512];
  const KvRow row = {.codes = reinterpret_cast<std::byte*>(got)};
  for (size_t begin = 0; begin < x.size(); begin += 512) {
    EXPECT_EQ(encode_(&x[begin], KvFormat::kBf16, 512, row), KvRowStatus::kOk);
    for (int i = 0; i < 512; ++i) ASSERT_EQ(got[i], ToBf16(x[begin + i]).bits) << x[begin + i];
    EXPECT_EQ(encode_(&x[begin], KvFormat::kF16, 512, row), KvRowStatus::kOk);
    for (int i = 0; i < 512; ++i) ASSERT_EQ(got[i], ToF16(x[begin + i]).bits) << x[begin + i];
  }
}

TEST(F16Test, EveryF16IsTheFloatThatTheCompilerHas) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const F16 half = {static_cast<uint16_t>(bits)};
    const float want = static_cast<float>(std::bit_cast<_Float16>(half));
    const float got = ToFloat(half);
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(got));
      EXPECT_EQ(ToF16(got).bits, bits | 0x200);
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(want)) << bits;
      ASSERT_EQ(ToF16(got).bits, bits);
    }
  }
}

TEST(F16Test, EveryFloatIsRoundedAsTheCompilerDoes) {
  const auto check = [](float x) {
    const auto want = std::bit_cast<uint16_t>(static_cast<_Float16>(x));
    ASSERT_EQ(ToF16(x).bits, want) << std::hexfloat << x;
  };
  // Around each F16, each middle between two of them, and the ends.
  for (uint32_t bits = 0; bits <= 0x7c00; ++bits) {
    const float x = ToFloat(F16{static_cast<uint16_t>(bits)});
    const float next = bits < 0x7bff ? ToFloat(F16{static_cast<uint16_t>(bits + 1)}) : 65536.0f;
    const float middle = x / 2 + next / 2;
    for (const float at : {x, middle}) {
      for (const float value : {std::nextafter(at, -kInf), at, std::nextafter(at, kInf)}) {
        check(value);
        check(-value);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
