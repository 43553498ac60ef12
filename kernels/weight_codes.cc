// Four values at a time, which every x86-64 can: the sixteen candidates of int4 make this the
// slowest part of loading. Sums are in one fixed order.
#include "kernels/weight_codes.h"

#include <emmintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace tandem::kernels {
namespace {

constexpr int kLanes = 4;
constexpr int kVecs = kWeightGroup / kLanes;

struct Group {
  __m128 values[kVecs];
};

// The codes that a scale, not zero, gives, as whole numbers; `inverse` is 1 / scale.
struct Grid {
  Grid(float scale, float low, float high)
      : scale(_mm_set1_ps(scale)),
        inverse(_mm_set1_ps(1.0f / scale)),
        low(_mm_set1_ps(low)),
        high(_mm_set1_ps(high)) {}

  __m128 Codes(__m128 values) const {
    // To the nearest whole number, ties to even: |values / scale| is far below 2^22.
    const __m128 big = _mm_set1_ps(0x1.8p23f);
    const __m128 codes = _mm_sub_ps(_mm_add_ps(_mm_mul_ps(values, inverse), big), big);
    return _mm_min_ps(_mm_max_ps(codes, low), high);
  }

  __m128 scale, inverse, low, high;
};

void Store(const Group& group, const Grid& grid, int8_t* codes) {
#pragma GCC unroll 8
  for (int i = 0; i < kVecs; ++i) {
    int32_t whole[kLanes];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(whole),
                     _mm_cvtps_epi32(grid.Codes(group.values[i])));
    for (int lane = 0; lane < kLanes; ++lane) {
      codes[i * kLanes + lane] = static_cast<int8_t>(whole[lane]);
    }
  }
}

// Sum of squared differences between the values and what their codes stand for.
float SquaredError(const Group& group, const Grid& grid) {
  __m128 sums[2] = {_mm_setzero_ps(), _mm_setzero_ps()};
#pragma GCC unroll 8
  for (int i = 0; i < kVecs; ++i) {
    const __m128 difference =
        _mm_sub_ps(group.values[i], _mm_mul_ps(grid.Codes(group.values[i]), grid.scale));
    sums[i % 2] = _mm_add_ps(sums[i % 2], _mm_mul_ps(difference, difference));
  }
  const __m128 sum = _mm_add_ps(sums[0], sums[1]);
  const __m128 half = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}

bool IsInfinite(F16 x) { return (x.bits & 0x7c00u) == 0x7c00u; }
bool IsZero(F16 x) { return (x.bits & 0x7fffu) == 0; }

bool EncodeZeros(int8_t* codes, F16& scale) {
  std::memset(codes, 0, kWeightGroup);
  scale = {0};
  return true;
}

bool EncodeInt8(const Group& group, float amax, int8_t* codes, F16& scale) {
  scale = ToF16(amax / 127.0f);
  if (IsInfinite(scale)) return false;
  if (IsZero(scale)) return EncodeZeros(codes, scale);
  Store(group, Grid(ToFloat(scale), -127.0f, 127.0f), codes);
  return true;
}

bool EncodeInt4(const Group& group, float top, int8_t* codes, F16& scale) {
  scale = ToF16(top / -8.0f);
  if (IsInfinite(scale)) return false;
  if (IsZero(scale)) return EncodeZeros(codes, scale);
  float least = SquaredError(group, Grid(ToFloat(scale), -8.0f, 7.0f));
  for (int eighths = -8; eighths < 8; ++eighths) {
    const F16 candidate = ToF16(top / -(8.0f + static_cast<float>(eighths) / 8.0f));
    if (eighths == 0 || IsInfinite(candidate) || IsZero(candidate)) continue;
    const float error = SquaredError(group, Grid(ToFloat(candidate), -8.0f, 7.0f));
    if (error < least) {
      least = error;
      scale = candidate;
    }
  }
  Store(group, Grid(ToFloat(scale), -8.0f, 7.0f), codes);
  return true;
}

}  // namespace

bool EncodeWeightGroup(WeightFormat format, const float* values, int8_t* codes, F16& scale) {
  // Magnitudes in the order of their bits: whatever is not finite comes out on top.
  uint32_t amax_bits = 0;
  float top = 0.0f;
  for (int i = 0; i < kWeightGroup; ++i) {
    const uint32_t magnitude = std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu;
    if (magnitude > amax_bits) {
      amax_bits = magnitude;
      top = values[i];
    }
  }
  if (amax_bits >= 0x7f800000u) return false;
  if (amax_bits == 0) return EncodeZeros(codes, scale);
  Group group;
  std::memcpy(&group, values, sizeof(group));
  return format == WeightFormat::kInt8 ? EncodeInt8(group, std::abs(top), codes, scale)
                                       : EncodeInt4(group, top, codes, scale);
}

bool EncodeWeightRow(WeightFormat format, const std::byte* row, int in, int8_t* codes,
                     F16* scales) {
  for (int first = 0; first < in; first += kWeightGroup) {
    const int count = std::min(kWeightGroup, in - first);
    Bf16 stored[kWeightGroup] = {};
    std::memcpy(stored, row + sizeof(Bf16) * first, sizeof(Bf16) * count);
    float values[kWeightGroup];
    for (int i = 0; i < kWeightGroup; ++i) values[i] = ToFloat(stored[i]);
    if (!EncodeWeightGroup(format, values, codes + first, scales[first / kWeightGroup])) {
      return false;
    }
  }
  return true;
}

}  // namespace tandem::kernels
