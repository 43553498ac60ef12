#include "kernels/reference/kv_row_ref.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

namespace tandem::kernels {
namespace {

constexpr float kMaxF16 = 65504.0f;
constexpr float kMaxSumSquares = 3.0e38f;
constexpr float kMinSumSquares = 1e-30f;
constexpr int kSumLanes = 32;

float Sign(int i) { return (kKvSignWords[i / 64] >> (i % 64) & 1) != 0 ? -1.0f : 1.0f; }

float InverseSqrt(int dim) { return kKvInverseSqrtDim[std::countr_zero(unsigned(dim)) - 6]; }

void Hadamard(float* y, int dim) {
  for (int h = 1; h < dim; h *= 2) {
    for (int begin = 0; begin < dim; begin += 2 * h) {
      for (int j = begin; j < begin + h; ++j) {
        const float a = y[j], b = y[j + h];
        y[j] = a + b;
        y[j + h] = a - b;
      }
    }
  }
}

float SumSquares(const float* y, int dim) {
  const int count = dim / kSumLanes;
  float sum[kSumLanes];
  for (int lane = 0; lane < kSumLanes; ++lane) {
    sum[lane] = 0.0f;
    for (int i = lane * count; i < (lane + 1) * count; ++i) {
      sum[lane] = std::fma(y[i], y[i], sum[lane]);
    }
  }
  for (int off = kSumLanes / 2; off > 0; off /= 2) {
    for (int lane = 0; lane < off; ++lane) sum[lane] = sum[lane] + sum[lane + off];
  }
  return sum[0];
}

// A code word of 32 bits at any address, as the machine has them.
uint32_t GetWord(const std::byte* words, int i) {
  uint32_t word;
  std::memcpy(&word, words + i * 4, 4);
  return word;
}
void OrWord(std::byte* words, int i, uint32_t bits) {
  bits |= GetWord(words, i);
  std::memcpy(words + i * 4, &bits, 4);
}

// Where code i of a row is: its word, and the lowest place of the code or of its part.
struct Place {
  int word;
  int bit;
};
Place Turbo4Magnitude(int i) { return {i / 8, 4 * (i % 8)}; }
Place Turbo4Sign(int i) {
  const int k = i % 8;
  return {i / 8, k < 4 ? 8 * k + 7 : 8 * (k - 4) + 3};
}
Place LowPlane(int i) {
  const int j = i % 16;
  return {i / 16, j < 8 ? 4 * j : 4 * (j - 8) + 2};
}
Place HighPlane(int i) {
  const int t = i % 32;
  return {i / 32, 4 * (t % 8) + t / 8};
}

const KvCodebook& CodebookOf(KvFormat format) {
  switch (format) {
    case KvFormat::kTurbo4:
      return kTurbo4Codebook;
    case KvFormat::kTurbo3:
      return kTurbo3Codebook;
    default:
      return kTurbo2Codebook;
  }
}

// Signed magnitude `magnitude` (its number) as code i of a row whose codes are 0.
void PutCode(KvFormat format, KvRow row, int i, int magnitude, bool negative) {
  if (format == KvFormat::kTurbo4) {
    const Place at = Turbo4Magnitude(i), sign = Turbo4Sign(i);
    OrWord(row.codes, at.word,
           uint32_t(magnitude) << at.bit | uint32_t{negative ? 1u : 0u} << sign.bit);
    return;
  }
  // Levels ascend over both signs.
  const int half = CodebookOf(format).num_magnitudes;
  const uint32_t level = negative ? half - 1 - magnitude : half + magnitude;
  const Place low = LowPlane(i);
  OrWord(row.codes, low.word, (level & 3) << low.bit);
  if (format == KvFormat::kTurbo3) {
    const Place high = HighPlane(i);
    OrWord(row.high_bits, high.word, (level >> 2) << high.bit);
  }
}

int GetCode(KvFormat format, KvRow row, int i) {
  const KvCodebook& book = CodebookOf(format);
  if (format == KvFormat::kTurbo4) {
    const Place at = Turbo4Magnitude(i), sign = Turbo4Sign(i);
    const int value = book.magnitudes[GetWord(row.codes, at.word) >> at.bit & 7];
    return (GetWord(row.codes, sign.word) >> sign.bit & 1) != 0 ? -value : value;
  }
  const Place low = LowPlane(i);
  int level = GetWord(row.codes, low.word) >> low.bit & 3;
  if (format == KvFormat::kTurbo3) {
    const Place high = HighPlane(i);
    level |= (GetWord(row.high_bits, high.word) >> high.bit & 1) << 2;
  }
  const int half = book.num_magnitudes;
  return level < half ? -book.magnitudes[half - 1 - level] : book.magnitudes[level - half];
}

// Stores y / r with codes of a turbo format; returns the scale.
float EncodeTurbo(const float* y, float r, KvFormat format, int dim, KvRow row) {
  const KvCodebook& book = CodebookOf(format);
  const float gain = book.gain / r;
  int sum_squares = 0;
  for (int i = 0; i < dim; ++i) {
    const float u = y[i] * gain;
    int magnitude = 0;
    for (int k = 0; k + 1 < book.num_magnitudes; ++k) {
      if (std::fabs(u) >= static_cast<float>(book.thresholds[k])) ++magnitude;
    }
    sum_squares += book.magnitudes[magnitude] * book.magnitudes[magnitude];
    PutCode(format, row, i, magnitude, u < 0.0f);
  }
  return r * 128.0f / std::sqrt(static_cast<float>(sum_squares));
}

float EncodeQ8(const float* y, int dim, KvRow row) {
  float max = 0.0f;
  for (int i = 0; i < dim; ++i) max = std::max(max, std::fabs(y[i]));
  const float inverse = 127.0f / max;
  for (int i = 0; i < dim; ++i) {
    const int8_t code = static_cast<int8_t>(std::nearbyint(y[i] * inverse));
    row.codes[i] = std::bit_cast<std::byte>(code);
  }
  return max / 127.0f * 128.0f * InverseSqrt(dim);
}

KvRowStatus EncodeScaled(const float* x, KvFormat format, int dim, KvRow row) {
  std::array<float, kMaxKvRowDim> y;
  RotateReference(x, dim, y.data());
  const float sum = SumSquares(y.data(), dim);
  if (format == KvFormat::kTurbo3) {
    std::memset(row.codes, 0, dim / 4);
    std::memset(row.high_bits, 0, dim / 8);
  } else {
    std::memset(row.codes, 0, KvRowBytes(format, dim));
  }
  *row.scale = {};
  if (!(sum <= kMaxSumSquares)) return KvRowStatus::kNonfinite;
  if (sum < kMinSumSquares) return KvRowStatus::kZero;

  const float r = std::sqrt(sum / static_cast<float>(dim));
  const float scale = format == KvFormat::kQ8 ? EncodeQ8(y.data(), dim, row)
                                              : EncodeTurbo(y.data(), r, format, dim, row);
  *row.scale = ToF16(std::min(scale, kMaxF16));
  return scale > kMaxF16 ? KvRowStatus::kClamped : KvRowStatus::kOk;
}

}  // namespace

void RotateReference(const float* x, int dim, float* y) {
  for (int i = 0; i < dim; ++i) y[i] = Sign(i) * x[i];
  Hadamard(y, dim);
}

void UnrotateReference(const float* y, int dim, float* x) {
  if (x != y) std::memcpy(x, y, static_cast<size_t>(dim) * sizeof(float));
  Hadamard(x, dim);
  for (int i = 0; i < dim; ++i) x[i] = Sign(i) * (x[i] * InverseSqrt(dim));
}

KvRowStatus EncodeRowReference(const float* x, KvFormat format, int dim, KvRow row) {
  switch (format) {
    case KvFormat::kF32:
      std::memcpy(row.codes, x, static_cast<size_t>(dim) * sizeof(float));
      return KvRowStatus::kOk;
    case KvFormat::kBf16:
      for (int i = 0; i < dim; ++i) {
        const Bf16 half = ToBf16(x[i]);
        std::memcpy(row.codes + i * 2, &half, 2);
      }
      return KvRowStatus::kOk;
    case KvFormat::kF16:
      for (int i = 0; i < dim; ++i) {
        const F16 half = ToF16(x[i]);
        std::memcpy(row.codes + i * 2, &half, 2);
      }
      return KvRowStatus::kOk;
    default:
      return EncodeScaled(x, format, dim, row);
  }
}

void DecodeCodesReference(KvFormat format, int dim, KvRow row, int* codes) {
  for (int i = 0; i < dim; ++i) {
    codes[i] =
        format == KvFormat::kQ8 ? std::bit_cast<int8_t>(row.codes[i]) : GetCode(format, row, i);
  }
}

void DecodeRowReference(KvFormat format, int dim, KvRow row, float* values) {
  switch (format) {
    case KvFormat::kF32:
      std::memcpy(values, row.codes, static_cast<size_t>(dim) * sizeof(float));
      return;
    case KvFormat::kBf16:
      for (int i = 0; i < dim; ++i) {
        Bf16 half;
        std::memcpy(&half, row.codes + i * 2, 2);
        values[i] = ToFloat(half);
      }
      return;
    case KvFormat::kF16:
      for (int i = 0; i < dim; ++i) {
        F16 half;
        std::memcpy(&half, row.codes + i * 2, 2);
        values[i] = ToFloat(half);
      }
      return;
    default:
      break;
  }
  std::array<int, kMaxKvRowDim> codes;
  DecodeCodesReference(format, dim, row, codes.data());
  const float step = ToFloat(*row.scale) / 128.0f;
  for (int i = 0; i < dim; ++i) values[i] = step * static_cast<float>(codes[i]);
}

}  // namespace tandem::kernels
