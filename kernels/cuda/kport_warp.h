// Barriers, exchanges between lanes and matrix instructions.
//
// Host versions carry CUDA's names and the caller's line; they are functions, so that helpers may
// have any name.
#pragma once

#include <type_traits>

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// Blocks are one-dimensional.
K_DEVICE int lane_id() { return static_cast<int>(threadIdx.x % kWarp); }
K_DEVICE int warp_id() { return static_cast<int>(threadIdx.x / kWarp); }

#if !defined(__CUDACC__)
inline void __syncthreads(K_SITE_FIRST) { emu::BlockBarrier("__syncthreads", 0, site); }
inline int __syncthreads_count(int predicate K_SITE) {
  return emu::BlockBarrier("__syncthreads_count", predicate, site);
}
inline int __syncthreads_and(int predicate K_SITE) {
  const int count = emu::BlockBarrier("__syncthreads_and", predicate, site);
  return count == static_cast<int>(blockDim.x);
}
inline int __syncthreads_or(int predicate K_SITE) {
  return emu::BlockBarrier("__syncthreads_or", predicate, site) > 0;
}
inline void __syncwarp(uint32_t mask = kFullMask K_SITE) { emu::WarpBarrier(mask, site); }

// T has 4 or 8 bytes.
template <typename T>
T ShuffleValue(emu::ShuffleKind kind, uint32_t mask, T value, int operand, int width,
               emu::Site site) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static_assert(sizeof(T) == sizeof(Bits));
  const uint64_t bits = std::bit_cast<Bits>(value);
  return std::bit_cast<T>(static_cast<Bits>(emu::Shuffle(kind, mask, bits, operand, width, site)));
}
template <typename T>
T __shfl_sync(uint32_t mask, T value, int lane, int width = kWarp K_SITE) {
  return ShuffleValue(emu::ShuffleKind::kIndex, mask, value, lane, width, site);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, int delta, int width = kWarp K_SITE) {
  return ShuffleValue(emu::ShuffleKind::kUp, mask, value, delta, width, site);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, int delta, int width = kWarp K_SITE) {
  return ShuffleValue(emu::ShuffleKind::kDown, mask, value, delta, width, site);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = kWarp K_SITE) {
  return ShuffleValue(emu::ShuffleKind::kXor, mask, value, lanes, width, site);
}

inline uint32_t __ballot_sync(uint32_t mask, bool vote K_SITE) {
  return emu::Ballot(mask, vote, site);
}
inline int __any_sync(uint32_t mask, bool vote K_SITE) {
  return emu::Ballot(mask, vote, site) != 0;
}
inline int __all_sync(uint32_t mask, bool vote K_SITE) {
  return emu::Ballot(mask, vote, site) == mask;
}
#endif

// acc[16, 8] += A[16, 16] B[16, 8], f32 accumulation. With g = lane/4, t = lane%4:
//   a[i]    row g + 8*(i%2), columns 2t + 8*(i/2) + {0, 1}
//   b[i]    rows 2t + 8*i + {0, 1}, column g
//   acc[i]  row g + 8*(i/2), column 2t + i%2
// The order of additions inside one instruction is the device's own.
K_DEVICE void mma_bf16_16816(float (&acc)[4], const uint32_t (&a)[4],
                             const uint32_t (&b)[2] K_SITE) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emu::Mma16816(emu::OperandType::kBf16, acc, a, b, site);
#endif
}

K_DEVICE void mma_f16_16816(float (&acc)[4], const uint32_t (&a)[4],
                            const uint32_t (&b)[2] K_SITE) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emu::Mma16816(emu::OperandType::kF16, acc, a, b, site);
#endif
}

#if !defined(__CUDACC__)
// The row that this lane names is read here, for the sanitizers to see who did it.
inline void TouchAndLoad(int matrices, bool transposed, uint32_t* out, const void* row,
                         emu::Site site) {
  if (lane_id() < 8 * matrices && reinterpret_cast<uintptr_t>(row) % 16 == 0) {
    [[maybe_unused]] const uint32_t touched = *static_cast<const volatile uint32_t*>(row) |
                                              static_cast<const volatile uint32_t*>(row)[1] |
                                              static_cast<const volatile uint32_t*>(row)[2] |
                                              static_cast<const volatile uint32_t*>(row)[3];
  }
  emu::LoadMatrices(matrices, transposed, out, row, site);
}
#endif

// 8x8 tiles of 16-bit values from shared memory. Lane 8m + r gives the 16-byte aligned address of
// row r of tile m (other lanes' addresses are ignored); r[m] receives row lane/4, columns
// 2*(lane%4) + {0, 1} of tile m, the _trans forms of the transposed tile.
K_DEVICE void ldsm_x1(uint32_t (&r)[1], const void* row K_SITE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(SharedAddress(row))
               : "memory");
#else
  TouchAndLoad(1, false, r, row, site);
#endif
}

K_DEVICE void ldsm_x1_trans(uint32_t (&r)[1], const void* row K_SITE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(SharedAddress(row))
               : "memory");
#else
  TouchAndLoad(1, true, r, row, site);
#endif
}

K_DEVICE void ldsm_x2(uint32_t (&r)[2], const void* row K_SITE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(SharedAddress(row))
               : "memory");
#else
  TouchAndLoad(2, false, r, row, site);
#endif
}

K_DEVICE void ldsm_x2_trans(uint32_t (&r)[2], const void* row K_SITE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(SharedAddress(row))
               : "memory");
#else
  TouchAndLoad(2, true, r, row, site);
#endif
}

K_DEVICE void ldsm_x4(uint32_t (&r)[4], const void* row K_SITE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
#else
  TouchAndLoad(4, false, r, row, site);
#endif
}

K_DEVICE void ldsm_x4_trans(uint32_t (&r)[4], const void* row K_SITE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
#else
  TouchAndLoad(4, true, r, row, site);
#endif
}

// Transposes an 8x8 tile of 16-bit values held as row lane/4, columns 2*(lane%4) + {0, 1}.
K_DEVICE uint32_t movmatrix_trans(uint32_t values K_SITE) {
#if defined(__CUDACC__)
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(values));
  return out;
#else
  return emu::TransposeMatrix(values, site);
#endif
}

// The sum over the warp, in every lane, by an xor butterfly of distances 16, 8, 4, 2, 1.
K_DEVICE float warp_sum(float x K_SITE) {
  K_UNROLL
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#if defined(__CUDACC__)
    x = __fadd_rn(x, __shfl_xor_sync(kFullMask, x, distance));
#else
    x += __shfl_xor_sync(kFullMask, x, distance, kWarp, site);
#endif
  }
  return x;
}

// The largest value of the warp, in every lane; NaN only if all are.
K_DEVICE float warp_max(float x K_SITE) {
  K_UNROLL
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
#if defined(__CUDACC__)
    x = fmaxf(x, __shfl_xor_sync(kFullMask, x, distance));
#else
    x = std::fmax(x, __shfl_xor_sync(kFullMask, x, distance, kWarp, site));
#endif
  }
  return x;
}

}  // namespace tandem::kernels::K_WORLD
