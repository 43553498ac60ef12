// Stores one K or V row with a warp, in every format but kF32 (turboquant 2.2, 2.3).
//
// Lanes     lane l holds values l*n .. l*n + n - 1 of the row, n = dim/32: the order of additions
//           of S asks for it. Code words that several lanes share are joined by shuffles.
// Bits      those of EncodeRowReference (kernels/reference/kv_row_ref.h) for equal values.
// Truth     tests/emu/kv_encode_test.cc.
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/cuda/rotate.h"
#include "kernels/kv_row.h"

namespace tandem::kernels::K_WORLD {

// K and V rows that were not stored as they came, in device memory; [0] of K, [1] of V. Only
// formats with a scale tell.
struct KvRowCounts {
  uint64_t nonfinite[2] = {};  // a NaN, an infinity or a norm above 1e17
  uint64_t clamped[2] = {};    // scale above the largest F16
  uint64_t zero[2] = {};       // norm so small that the row is zero
};

// One side (K or V) of one head in a block, and a cell there.
struct KvCell {
  std::byte* codes = nullptr;   // the side's codes in the head-block
  std::byte* scales = nullptr;  // and its scales
  int log2_block_tokens = 0;
  int cell = 0;
};

//   place  block * block_tokens + cell, not negative
K_DEVICE KvCell KvCellAt(const KvView& kv, int32_t place, int head, bool v) {
  const int block = place >> kv.log2_block_tokens;
  std::byte* head_block = kv.base + block * kv.block_stride + head * kv.head_stride;
  return {.codes = head_block + (v ? kv.v_offset : 0),
          .scales = head_block + (v ? kv.v_scale_offset : kv.k_scale_offset),
          .log2_block_tokens = kv.log2_block_tokens,
          .cell = place - (block << kv.log2_block_tokens)};
}

constexpr const KvCodebook& CodebookOf(KvFormat format) {
  return format == KvFormat::kTurbo4   ? kTurbo4Codebook
         : format == KvFormat::kTurbo3 ? kTurbo3Codebook
                                       : kTurbo2Codebook;
}

// A lane's codes, at their places in the words they go to.
template <KvFormat kFormat, int kDim>
struct LaneCodes {
  static constexpr int kOwnWords = kFormat == KvFormat::kQ8       ? kDim / kWarp / 4
                                   : kFormat == KvFormat::kTurbo4 ? kDim / kWarp / 8
                                                                  : 1;
  Vec<uint32_t, kOwnWords> words = {};  // kTurbo3 and kTurbo2: its part of one word
  uint32_t high = 0;                    // kTurbo3: its part of a word of the high plane
};

K_DEVICE float Magnitude(float x) { return f32_of_bits(f32_bits(x) & 0x7fffffffu); }

// Adds to `number` how many thresholds from kStep on `magnitude` reaches, and to `squares` what
// that adds to the square of its level.
template <KvFormat kFormat, int kStep = 0>
K_DEVICE void CountThresholds(float magnitude, uint32_t* number, int* squares) {
  if constexpr (kStep + 1 < CodebookOf(kFormat).num_magnitudes) {
    constexpr float kThreshold = CodebookOf(kFormat).thresholds[kStep];
    constexpr int kBelow = CodebookOf(kFormat).magnitudes[kStep];
    constexpr int kAbove = CodebookOf(kFormat).magnitudes[kStep + 1];
    const bool reached = magnitude >= kThreshold;
    *number += reached ? 1 : 0;
    *squares += reached ? kAbove * kAbove - kBelow * kBelow : 0;
    CountThresholds<kFormat, kStep + 1>(magnitude, number, squares);
  }
}

// Codes of y, whose row has norm r; returns the scale.
template <KvFormat kFormat, int kDim>
K_DEVICE float EncodeTurbo(const float (&y)[kDim / kWarp], float r, int lane,
                           LaneCodes<kFormat, kDim>* codes) {
  constexpr int kValues = kDim / kWarp;
  constexpr float kGain = CodebookOf(kFormat).gain;
  constexpr int kSmallest = CodebookOf(kFormat).magnitudes[0];
  const float gain = div_rn(kGain, r);
  int squares = kValues * kSmallest * kSmallest;
  K_UNROLL
  for (int octet = 0; octet < kValues / 8; ++octet) {
    uint32_t low = 0;
    [[maybe_unused]] uint32_t high = 0;
    K_UNROLL
    for (int k = 0; k < 8; ++k) {
      const float u = mul_rn(y[8 * octet + k], gain);
      uint32_t number = 0;
      CountThresholds<kFormat>(Magnitude(u), &number, &squares);
      const bool negative = u < 0.0f;
      if constexpr (kFormat == KvFormat::kTurbo4) {
        const int sign_bit = k < 4 ? 8 * k + 7 : 8 * (k - 4) + 3;
        low |= number << 4 * k | (negative ? 1u : 0u) << sign_bit;
      } else {
        // Levels ascend over both signs.
        constexpr uint32_t kHalf = CodebookOf(kFormat).num_magnitudes;
        const uint32_t level = negative ? kHalf - 1 - number : kHalf + number;
        low |= (level & 3) << 4 * k;
        high |= (level >> 2) << 4 * k;
      }
    }
    if constexpr (kFormat == KvFormat::kTurbo4) {
      codes->words[octet] = low;
    } else {
      const int group = lane * (kValues / 8) + octet;
      codes->words[0] |= low << 2 * (group % 2);
      codes->high |= high << group % 4;
    }
  }
  K_UNROLL
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    squares += __shfl_xor_sync(kFullMask, squares, distance);
  }
  return div_rn(mul_rn(r, 128.0f), sqrt_rn(static_cast<float>(squares)));
}

template <int kDim>
K_DEVICE float EncodeQ8(const float (&y)[kDim / kWarp], LaneCodes<KvFormat::kQ8, kDim>* codes) {
  constexpr int kValues = kDim / kWarp;
  float largest = 0.0f;
  K_UNROLL
  for (int i = 0; i < kValues; ++i) {
    const float magnitude = Magnitude(y[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  largest = warp_max(largest);
  const float inverse = div_rn(127.0f, largest);
  K_UNROLL
  for (int i = 0; i < kValues; ++i) {
    const int code = static_cast<int>(rint_rn(mul_rn(y[i], inverse)));
    codes->words[i / 4] |= (static_cast<uint32_t>(code) & 0xffu) << 8 * (i % 4);
  }
  return mul_rn(mul_rn(div_rn(largest, 127.0f), 128.0f), kRotationScale<kDim>);
}

// Stores word l / kSharers of `words`, to which lanes l - l % kSharers .. + kSharers - 1 give bits.
template <int kSharers>
K_DEVICE void StoreJoined(std::byte* words, uint32_t bits, int lane) {
  K_UNROLL
  for (int distance = 1; distance < kSharers; distance *= 2) {
    bits |= __shfl_xor_sync(kFullMask, bits, distance);
  }
  if (lane % kSharers == 0) st(reinterpret_cast<uint32_t*>(words) + lane / kSharers, bits);
}

template <KvFormat kFormat, int kDim>
K_DEVICE KvRowStatus StoreScaled(float (&y)[kDim / kWarp], const KvCell& at, int lane) {
  constexpr int kValues = kDim / kWarp;
  constexpr float kMaxSumSquares = 3.0e38f, kMinSumSquares = 1e-30f, kMaxF16 = 65504.0f;
  FlipSigns<kDim>(y, lane);
  Hadamard<kDim>(y, lane);
  float sum = 0.0f;
  K_UNROLL
  for (int i = 0; i < kValues; ++i) sum = fma_rn(y[i], y[i], sum);
  sum = warp_sum(sum);

  // The same in every lane, as `sum` is.
  KvRowStatus status = KvRowStatus::kOk;
  LaneCodes<kFormat, kDim> codes;
  float scale = 0.0f;
  if (!(sum <= kMaxSumSquares)) {
    status = KvRowStatus::kNonfinite;
  } else if (sum < kMinSumSquares) {
    status = KvRowStatus::kZero;
  } else {
    if constexpr (kFormat == KvFormat::kQ8) {
      scale = EncodeQ8<kDim>(y, &codes);
    } else {
      scale = EncodeTurbo(y, sqrt_rn(mul_rn(sum, 1.0f / kDim)), lane, &codes);
    }
    if (scale > kMaxF16) {
      status = KvRowStatus::kClamped;
      scale = kMaxF16;
    }
  }

  if constexpr (kFormat == KvFormat::kQ8 || kFormat == KvFormat::kTurbo4) {
    constexpr size_t kRowBytes = KvRowBytes(kFormat, kDim);
    using Words = decltype(codes.words);
    st(reinterpret_cast<Words*>(at.codes + at.cell * kRowBytes) + lane, codes.words);
  } else {
    constexpr size_t kLowBytes = kDim / 4;
    StoreJoined<16 / kValues>(at.codes + at.cell * kLowBytes, codes.words[0], lane);
    if constexpr (kFormat == KvFormat::kTurbo3) {
      constexpr size_t kHighBytes = kDim / 8;
      std::byte* high_plane = at.codes + (kLowBytes << at.log2_block_tokens);
      StoreJoined<32 / kValues>(high_plane + at.cell * kHighBytes, codes.high, lane);
    }
  }
  if (lane == 0) st(reinterpret_cast<f16*>(at.scales) + at.cell, f32_to_f16_rn(scale));
  return status;
}

// Values rounded to bf16 or f16, 16 bytes a store; `to` is aligned to them.
template <int kValues>
K_DEVICE void StoreHalves(const float (&x)[kValues], bool to_bf16, void* to) {
  K_UNROLL
  for (int v = 0; v < kValues; v += 8) {
    Vec<uint32_t, 4> words;
    K_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float low = x[v + 2 * i], high = x[v + 2 * i + 1];
      words[i] = to_bf16 ? pack_bf16x2(low, high) : pack_f16x2(low, high);
    }
    st(static_cast<Vec<uint32_t, 4>*>(to) + v / 8, words);
  }
}

// Stores the row of which this lane holds x, the same `format` and `at` in every lane; kF32 stores
// nothing. What became of it is told to every lane. x is overwritten.
template <int kDim>
K_DEVICE KvRowStatus StoreKvRow(float (&x)[kDim / kWarp], KvFormat format, const KvCell& at,
                                int lane) {
  switch (format) {
    case KvFormat::kBf16:
    case KvFormat::kF16:
      StoreHalves(x, format == KvFormat::kBf16,
                  at.codes + (static_cast<size_t>(at.cell) * kWarp + lane) * (2 * kDim / kWarp));
      return KvRowStatus::kOk;
    case KvFormat::kQ8:
      return StoreScaled<KvFormat::kQ8, kDim>(x, at, lane);
    case KvFormat::kTurbo4:
      return StoreScaled<KvFormat::kTurbo4, kDim>(x, at, lane);
    case KvFormat::kTurbo3:
      return StoreScaled<KvFormat::kTurbo3, kDim>(x, at, lane);
    case KvFormat::kTurbo2:
      return StoreScaled<KvFormat::kTurbo2, kDim>(x, at, lane);
    case KvFormat::kF32:
      break;
  }
  return KvRowStatus::kOk;
}

// Counts how a row was stored; `nonfinite` and `counts` may be null. By one lane.
//   side  0 a K row, 1 a V row
K_DEVICE void NoteKvRow(KvRowStatus status, int side, int32_t* nonfinite, KvRowCounts* counts) {
  if (status == KvRowStatus::kOk) return;
  if (status == KvRowStatus::kNonfinite && nonfinite != nullptr) atomic_add_i32(nonfinite, 1);
  if (counts == nullptr) return;
  uint64_t* count = status == KvRowStatus::kNonfinite ? counts->nonfinite
                    : status == KvRowStatus::kClamped ? counts->clamped
                                                      : counts->zero;
  atomic_add_u64(count + side, 1);
}

}  // namespace tandem::kernels::K_WORLD
