// Arithmetic, 16-bit floats and bit tricks, device and host definitions side by side.
//
// The _rn functions give the same bits in both worlds and are never contracted. ex2, rcp, rsqrt and
// the _acc functions agree to a few units in the last place only: compare with a tolerance.
#pragma once

#if !defined(__CUDACC__)
#include <bit>
#include <cmath>
#endif

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

K_DEVICE float fma_rn(float a, float b, float c) {
#if defined(__CUDACC__)
  return __fmaf_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

K_DEVICE float mul_rn(float a, float b) {
#if defined(__CUDACC__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

K_DEVICE float add_rn(float a, float b) {
#if defined(__CUDACC__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

K_DEVICE float div_rn(float a, float b) {
#if defined(__CUDACC__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

K_DEVICE float sqrt_rn(float x) {
#if defined(__CUDACC__)
  return __fsqrt_rn(x);
#else
  return std::sqrt(x);
#endif
}

// Nearest integer, ties to even.
K_DEVICE float rint_rn(float x) {
#if defined(__CUDACC__)
  return rintf(x);
#else
  return std::rint(x);
#endif
}

// 2^x; 0 for -infinity. Results below 2^-126 may be 0.
K_DEVICE float ex2(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

K_DEVICE float rcp(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / x;
#endif
}

K_DEVICE float rsqrt(float x) {
#if defined(__CUDACC__)
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1.0f / std::sqrt(x);
#endif
}

// The accurate hyperbolic tangent, not the approximate instruction.
K_DEVICE float tanh_acc(float x) {
#if defined(__CUDACC__)
  return ::tanhf(x);
#else
  return std::tanh(x);
#endif
}

// Logarithms of the mathematics library, not the approximate instruction; log1p is log(1 + x).
K_DEVICE float log_acc(float x) {
#if defined(__CUDACC__)
  return ::logf(x);
#else
  return std::log(x);
#endif
}

K_DEVICE float log1p_acc(float x) {
#if defined(__CUDACC__)
  return ::log1pf(x);
#else
  return std::log1p(x);
#endif
}

// The few values that need f64: few per row, for graphics cards have few units for it.
K_DEVICE double log_acc(double x) {
#if defined(__CUDACC__)
  return ::log(x);
#else
  return std::log(x);
#endif
}

K_DEVICE double mul_rn_f64(double a, double b) {
#if defined(__CUDACC__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

K_DEVICE double add_rn_f64(double a, double b) {
#if defined(__CUDACC__)
  return __dadd_rn(a, b);
#else
  return a + b;
#endif
}

K_DEVICE double fma_rn_f64(double a, double b, double c) {
#if defined(__CUDACC__)
  return __fma_rn(a, b, c);
#else
  return std::fma(a, b, c);
#endif
}

K_DEVICE double rint_rn_f64(double x) {
#if defined(__CUDACC__)
  return ::rint(x);
#else
  return std::rint(x);
#endif
}

// The bits of a float and back.
K_DEVICE uint32_t f32_bits(float x) {
#if defined(__CUDACC__)
  return __float_as_uint(x);
#else
  return std::bit_cast<uint32_t>(x);
#endif
}

K_DEVICE float f32_of_bits(uint32_t bits) {
#if defined(__CUDACC__)
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

// Conversions to 16 bits round to nearest even and keep subnormals; a NaN stays one (the device
// drops its payload).
K_DEVICE float bf16_to_f32(bf16 x) { return f32_of_bits(uint32_t{x.bits} << 16); }

K_DEVICE bf16 f32_to_bf16_rn(float x) {
#if defined(__CUDACC__)
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  return ToBf16(x);
#endif
}

K_DEVICE float f16_to_f32(f16 x) {
#if defined(__CUDACC__)
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#else
  return ToFloat(x);
#endif
}

// Infinity from 65520 on.
K_DEVICE f16 f32_to_f16_rn(float x) {
#if defined(__CUDACC__)
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  return ToF16(x);
#endif
}

// Two 16-bit floats in a word, the first in the low half.
K_DEVICE uint32_t pack_bf16x2(float low, float high) {
#if defined(__CUDACC__)
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
#else
  return ToBf16(low).bits | uint32_t{ToBf16(high).bits} << 16;
#endif
}

K_DEVICE uint32_t pack_f16x2(float low, float high) {
#if defined(__CUDACC__)
  uint32_t y;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
#else
  return ToF16(low).bits | uint32_t{ToF16(high).bits} << 16;
#endif
}

K_DEVICE float2 unpack_bf16x2(uint32_t pair) {
  return float2{f32_of_bits(pair << 16), f32_of_bits(pair & 0xffff0000u)};
}

K_DEVICE float2 unpack_f16x2(uint32_t pair) {
  return float2{f16_to_f32(f16{static_cast<uint16_t>(pair)}),
                f16_to_f32(f16{static_cast<uint16_t>(pair >> 16)})};
}

// a - b of both halves, rounded once.
K_DEVICE uint32_t sub_f16x2(uint32_t a, uint32_t b) {
#if defined(__CUDACC__)
  uint32_t y;
  asm("sub.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  return y;
#else
  // A difference rounded to 24 bits first rounds to the same 11 (24 >= 2 * 11 + 2).
  const float2 x = unpack_f16x2(a), y = unpack_f16x2(b);
  return pack_f16x2(x.x - y.x, x.y - y.y);
#endif
}

K_DEVICE uint32_t sub_bf16x2(uint32_t a, uint32_t b) {
#if defined(__CUDACC__)
  // a * 1 + (-b): sm_80 has no subtraction of bf16 pairs.
  uint32_t y;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(0x3f803f80u), "r"(b ^ 0x80008000u));
  return y;
#else
  const float2 x = unpack_bf16x2(a), y = unpack_bf16x2(b);
  return pack_bf16x2(x.x - y.x, x.y - y.y);
#endif
}

// PTX prmt: byte i of the result is byte (selector >> 4i & 7) of b:a, or eight copies of that
// byte's sign bit where bit 3 of the nibble is set. (CUDA's own intrinsic ignores bit 3.)
K_DEVICE uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector) {
#if defined(__CUDACC__)
  uint32_t y;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(selector));
  return y;
#else
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> 4 * i & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> 8 * (nibble & 7)) & 0xff;
    if ((nibble & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    result |= byte << 8 * i;
  }
  return result;
#endif
}

// Any function of three bits: kTable is it applied to a = 0xf0, b = 0xcc, c = 0xaa.
template <int kTable>
K_DEVICE uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
  static_assert(kTable >= 0 && kTable < 256);
#if defined(__CUDACC__)
  uint32_t y;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(y) : "r"(a), "r"(b), "r"(c), "n"(kTable));
  return y;
#else
  uint32_t result = 0;
  for (int i = 0; i < 8; ++i) {
    if ((kTable >> i & 1) == 0) continue;
    result |= ((i & 4) != 0 ? a : ~a) & ((i & 2) != 0 ? b : ~b) & ((i & 1) != 0 ? c : ~c);
  }
  return result;
#endif
}

// The number of set bits.
K_DEVICE int popc(uint32_t x) {
#if defined(__CUDACC__)
  return __popc(x);
#else
  return std::popcount(x);
#endif
}

// c plus the dot product of four signed bytes.
K_DEVICE int32_t dp4a(uint32_t a, uint32_t b, int32_t c) {
#if defined(__CUDACC__)
  return __dp4a(static_cast<int>(a), static_cast<int>(b), c);
#else
  for (int i = 0; i < 4; ++i) {
    c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  }
  return c;
#endif
}

}  // namespace tandem::kernels::K_WORLD
