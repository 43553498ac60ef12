// Four values at a time in the compiler's own vectors, which every x86-64 has: the sixteen
// candidates of int4 make this the slowest part of loading. Sums are in one fixed order.
#include "kernels/weight_codes.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace tandem::kernels {
namespace {

constexpr int kLanes = 4;
constexpr int kVecs = kWeightGroup / kLanes;
using Vec = float __attribute__((vector_size(16)));
using IntVec = int32_t __attribute__((vector_size(16)));

struct Group {
  Vec values[kVecs];
};

Vec Splat(float x) { return Vec{x, x, x, x}; }

// To the nearest integer, ties to even, where |x| < 2^22.
Vec Round(Vec x) {
  const Vec big = Splat(0x1.8p23f);
  return (x + big) - big;
}

// The codes that `scale`, not zero, gives: `inverse` is 1 / scale.
Vec CodesOf(Vec values, Vec inverse, Vec low, Vec high) {
  Vec codes = Round(values * inverse);
  codes = codes < low ? low : codes;
  return codes > high ? high : codes;
}

void Store(const Group& group, float scale, float low, float high, int8_t* codes) {
  for (int i = 0; i < kVecs; ++i) {
    const IntVec whole = __builtin_convertvector(
        CodesOf(group.values[i], Splat(1.0f / scale), Splat(low), Splat(high)), IntVec);
    for (int lane = 0; lane < kLanes; ++lane) {
      codes[i * kLanes + lane] = static_cast<int8_t>(whole[lane]);
    }
  }
}

// Sum of squared differences between the values and what their codes stand for.
float SquaredError(const Group& group, float scale, float low, float high) {
  Vec sum = Splat(0.0f);
  for (int i = 0; i < kVecs; ++i) {
    const Vec codes = CodesOf(group.values[i], Splat(1.0f / scale), Splat(low), Splat(high));
    const Vec difference = group.values[i] - codes * Splat(scale);
    sum += difference * difference;
  }
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
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
  Store(group, ToFloat(scale), -127.0f, 127.0f, codes);
  return true;
}

bool EncodeInt4(const Group& group, float top, int8_t* codes, F16& scale) {
  scale = ToF16(top / -8.0f);
  if (IsInfinite(scale)) return false;
  if (IsZero(scale)) return EncodeZeros(codes, scale);
  float least = SquaredError(group, ToFloat(scale), -8.0f, 7.0f);
  for (int eighths = -8; eighths < 8; ++eighths) {
    const F16 candidate = ToF16(top / -(8.0f + static_cast<float>(eighths) / 8.0f));
    if (eighths == 0 || IsInfinite(candidate) || IsZero(candidate)) continue;
    const float error = SquaredError(group, ToFloat(candidate), -8.0f, 7.0f);
    if (error < least) {
      least = error;
      scale = candidate;
    }
  }
  Store(group, ToFloat(scale), -8.0f, 7.0f, codes);
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
