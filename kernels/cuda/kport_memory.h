// Shared memory, loads and stores of global memory, asynchronous copies, atomics, launch overlap.
//
// Kernels touch global memory through ld, ld_nc, st, st_cs and cp_async alone, so that emulation
// can count the bytes of each kernel (emu::Stream::TakeTraffic).
#pragma once

#include <cstring>

#if !defined(__CUDACC__)
#include <atomic>
#endif

#include "kernels/cuda/kport.h"

// K_SHARED(T, name, n): T name[n] shared by the block, uninitialised. K_DYN_SMEM(T, name): T* to
// the bytes asked for at launch, 128-byte aligned; once per kernel, carved up by hand.
#if defined(__CUDACC__)
// Raw bytes: T may have initialisers, which a __shared__ variable can not.
#define K_SHARED(T, name, n)                                            \
  __shared__ __align__(16) unsigned char name##_bytes[sizeof(T) * (n)]; \
  auto& name = *reinterpret_cast<T(*)[n]>(name##_bytes)
#define K_DYN_SMEM(T, name)                                             \
  extern __shared__ __align__(128) unsigned char tandem_dynamic_smem[]; \
  T* const name = reinterpret_cast<T*>(tandem_dynamic_smem)
#else
#define K_SHARED(T, name, n)            \
  static constexpr char name##_key = 0; \
  auto& name = *static_cast<T(*)[n]>(   \
      ::tandem::kernels::emu::StaticShared(&name##_key, sizeof(T) * (n), 16))
#define K_DYN_SMEM(T, name) T* const name = static_cast<T*>(::tandem::kernels::emu::DynamicShared())
#endif

namespace tandem::kernels::K_WORLD {

// N values that move as one aligned access.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
  K_FN T& operator[](int i) { return v[i]; }
  K_FN const T& operator[](int i) const { return v[i]; }
};
using Bf16x8 = Vec<bf16, 8>;

#if defined(__CUDACC__)
// The machine word that carries a T of 1, 2, 4, 8 or 16 bytes.
template <size_t kBytes>
struct WordOf;
template <>
struct WordOf<1> {
  using Type = unsigned char;
};
template <>
struct WordOf<2> {
  using Type = unsigned short;
};
template <>
struct WordOf<4> {
  using Type = unsigned;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<16> {
  using Type = uint4;
};
template <typename T>
using Word = typename WordOf<sizeof(T)>::Type;

template <typename To, typename From>
K_DEVICE To BitsAs(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}
#endif

// Loads a T of 1, 2, 4, 8 or 16 bytes from global memory; p is aligned to its size.
template <typename T>
K_DEVICE T ld(const T* p) {
#if defined(__CUDACC__)
  return BitsAs<T>(*reinterpret_cast<const Word<T>*>(p));
#else
  emu::CountRead(sizeof(T));
  return *p;
#endif
}

// The same for memory that no thread writes while the kernel runs.
template <typename T>
K_DEVICE T ld_nc(const T* p) {
#if defined(__CUDACC__)
  return BitsAs<T>(__ldg(reinterpret_cast<const Word<T>*>(p)));
#else
  return ld(p);
#endif
}

K_DEVICE uint4 ld_nc_16(const void* p) { return ld_nc(static_cast<const uint4*>(p)); }

template <typename T>
K_DEVICE void st(T* p, const T& value) {
#if defined(__CUDACC__)
  *reinterpret_cast<Word<T>*>(p) = BitsAs<Word<T>>(value);
#else
  emu::CountWrite(sizeof(T));
  *p = value;
#endif
}

// Stores what will not be read again soon.
template <typename T>
K_DEVICE void st_cs(T* p, const T& value) {
#if defined(__CUDACC__)
  __stcs(reinterpret_cast<Word<T>*>(p), BitsAs<Word<T>>(value));
#else
  st(p, value);
#endif
}

#if defined(__CUDACC__)
// The address that instructions on shared memory take.
K_DEVICE uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
#endif

// Asynchronous copy of kBytes from global to shared memory, or zeros where `valid` is false (src is
// then not read). Visible to this thread after the cp_wait that covers it, to others after a
// barrier behind that.
template <int kBytes>
K_DEVICE void CopyAsync(void* dst, const void* src, bool valid K_SITE) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
#if defined(__CUDACC__)
  const uint32_t to = SharedAddress(dst);
  const int bytes = valid ? kBytes : 0;
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(src), "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(to), "l"(src), "r"(bytes),
                 "n"(kBytes)
                 : "memory");
  }
#else
  if (reinterpret_cast<uintptr_t>(dst) % kBytes != 0 ||
      reinterpret_cast<uintptr_t>(src) % kBytes != 0) {
    emu::FailAt(site, "an address of cp_async is not a multiple of its size");
  }
  // Both sides are touched here and now, word by word (memset would be expanded behind
  // ThreadSanitizer's back), for the sanitizers to see who did it.
  if (valid) emu::CountRead(kBytes);
  for (int i = 0; i < kBytes / 4; ++i) {
    if (valid) {
      [[maybe_unused]] const uint32_t touched = static_cast<const volatile uint32_t*>(src)[i];
    }
    static_cast<volatile uint32_t*>(dst)[i] = 0xffffffffu;
  }
  emu::IssueCopy({dst, valid ? src : nullptr, kBytes, site});
#endif
}

K_DEVICE void cp_async_16(void* dst, const void* src, bool valid K_SITE) {
  CopyAsync<16>(dst, src, valid K_PASS_SITE);
}
K_DEVICE void cp_async_8(void* dst, const void* src, bool valid K_SITE) {
  CopyAsync<8>(dst, src, valid K_PASS_SITE);
}
K_DEVICE void cp_async_4(void* dst, const void* src, bool valid K_SITE) {
  CopyAsync<4>(dst, src, valid K_PASS_SITE);
}

// Closes the group of copies issued since the last one.
K_DEVICE void cp_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emu::CommitCopies();
#endif
}

// Waits for all committed groups but the newest kNewest.
template <int kNewest>
K_DEVICE void cp_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
#else
  emu::Copy copy{nullptr, nullptr, 0, emu::Site("", 0)};
  while (emu::TakeCopy(kNewest, &copy)) {
    if (copy.src == nullptr) {
      std::memset(copy.dst, 0, static_cast<size_t>(copy.bytes));
    } else {
      std::memcpy(copy.dst, copy.src, static_cast<size_t>(copy.bytes));
    }
  }
#endif
}

// Relaxed additions that return the old value. Order-independent uses only.
K_DEVICE int32_t atomic_add_i32(int32_t* p, int32_t x) {
#if defined(__CUDACC__)
  return atomicAdd(p, x);
#else
  return std::atomic_ref(*p).fetch_add(x);
#endif
}

K_DEVICE uint64_t atomic_add_u64(uint64_t* p, uint64_t x) {
#if defined(__CUDACC__)
  return atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(x));
#else
  return std::atomic_ref(*p).fetch_add(x);
#endif
}

// Orders this thread's writes before its later atomics, as seen by other blocks. Emulated atomics
// order them by themselves: a missing fence shows on a device alone.
K_DEVICE void thread_fence() {
#if defined(__CUDACC__)
  __threadfence();
#endif
}

// Overlap with the neighbouring launches, where the device has it (sm_90 on): wait for the previous
// kernel's results; let the next kernel start.
K_DEVICE void pdl_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

K_DEVICE void pdl_launch() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace tandem::kernels::K_WORLD
