// The only header a kernel file includes: one source for nvcc and, against kernels/emu, for the
// host compiler.
//
// Worlds    nvcc builds namespace tandem::kernels::cuda, a host compiler tandem::kernels::cuda_emu:
//           write `namespace tandem::kernels::K_WORLD`. Both may be linked into one program.
// Rules     kernels use the wrappers alone: no <<<>>>, raw asm, extern __shared__ or CUDA library.
//           Blocks are one-dimensional, a multiple of 32 threads. Every collective is reached by
//           the whole warp with a full mask; no float atomics; loads past the end are predicated;
//           no early return before a barrier.
// Wrappers  kport_math.h arithmetic, conversions, bits; kport_memory.h loads, stores, asynchronous
//           copies, shared memory, atomics; kport_warp.h barriers, shuffles, matrix instructions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "kernels/types.h"

#if defined(__CUDACC__)
#define K_WORLD cuda
// Marks helpers that kernels call: K_FN also runs on the host, K_DEVICE in kernels alone.
#define K_FN __host__ __device__ __forceinline__
#define K_DEVICE __device__ __forceinline__
#define K_UNROLL _Pragma("unroll")
// A parameter for the caller's line, which the emulator's errors name, and its passing on.
#define K_SITE
#define K_SITE_FIRST
#define K_PASS_SITE
#else
#include "kernels/emu/stream.h"
#include "kernels/emu/thread.h"
#define K_WORLD cuda_emu
#define K_FN inline
#define K_DEVICE inline
#define K_UNROLL
#define K_SITE , emu::Site site = emu::Site()
#define K_SITE_FIRST emu::Site site = emu::Site()
#define K_PASS_SITE , site
#define __global__
#define __launch_bounds__(...)
#define threadIdx (::tandem::kernels::emu::current_view->thread_idx)
#define blockIdx (::tandem::kernels::emu::current_view->block_idx)
#define blockDim (::tandem::kernels::emu::current_view->block_dim)
#define gridDim (::tandem::kernels::emu::current_view->grid_dim)
#endif

namespace tandem::kernels::K_WORLD {

using bf16 = Bf16;
using f16 = F16;

#if defined(__CUDACC__)
using Stream = cudaStream_t;
#else
using emu::dim3;
using emu::float2;
using emu::float4;
using emu::int2;
using emu::int4;
using emu::uint2;
using emu::uint4;
using Stream = emu::Stream*;
#endif

constexpr int kWarp = 32;
constexpr uint32_t kFullMask = 0xffffffffu;

// Starts `kernel` with grid * threads threads; `smem` counts the bytes behind K_DYN_SMEM, above
// 48 KiB only after AllowSharedMemory. Errors are kept by the stream until TakeLaunchError.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t smem, Stream stream,
            Arguments&&... arguments) {
  static_assert(sizeof...(Parameters) == sizeof...(Arguments));
#if defined(__CUDACC__)
  kernel<<<grid, static_cast<unsigned>(threads), smem, stream>>>(
      static_cast<Parameters>(std::forward<Arguments>(arguments))...);
#else
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  };
  const Call call = {kernel, {static_cast<Parameters>(std::forward<Arguments>(arguments))...}};
  const auto run = [](const void* context) {
    const Call& c = *static_cast<const Call*>(context);
    std::apply(c.kernel, c.arguments);
  };
  const auto copy = [](const void* context) -> std::shared_ptr<const void> {
    return std::make_shared<Call>(*static_cast<const Call*>(context));
  };
  stream->Launch({run, &call, copy}, {grid, static_cast<unsigned>(threads), smem});
#endif
}

// Lets `kernel` be launched with up to `bytes` of dynamic shared memory; once, when a model is
// loaded. False when the device has less.
template <typename... Parameters>
bool AllowSharedMemory([[maybe_unused]] void (*kernel)(Parameters...), size_t bytes) {
#if defined(__CUDACC__)
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(bytes)) == cudaSuccess;
#else
  return bytes <= emu::kMaxSharedBytes;
#endif
}

// What went wrong since the last call; empty when nothing did. On the device launch errors alone:
// a fault inside a kernel shows at the next synchronisation.
inline std::string TakeLaunchError([[maybe_unused]] Stream stream) {
#if defined(__CUDACC__)
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? std::string() : cudaGetErrorString(error);
#else
  return stream->TakeError();
#endif
}

}  // namespace tandem::kernels::K_WORLD

#include "kernels/cuda/kport_math.h"
#include "kernels/cuda/kport_memory.h"
#include "kernels/cuda/kport_warp.h"
