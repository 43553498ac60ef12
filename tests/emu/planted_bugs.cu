// Kernels with one planted bug each, and the same kernels without it.
//
//   planted_bugs NAME (planted|fixed) (forward|reverse|SEED)...
//
// Prints the emulator's error, or whether the result is right; a sanitizer may end it before.
// planted_bugs_test.cc runs it and expects a report that names a line marked "PLANTED NAME".
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

constexpr int kThreads = 128;
constexpr int kBlocks = 3;
constexpr int kTurns = 4;

// Each thread's expected result: what kernel(x, y) writes to y[block * kThreads + thread] given
// x[i] = i.
using Expected = float (*)(int block, int thread);

float SumOfBlock(int block, int) {
  float sum = 0.0f;
  for (int t = 0; t < kThreads; ++t) sum += static_cast<float>(block * kThreads + t);
  return sum;
}
float Opposite(int block, int thread) {
  return static_cast<float>(block * kThreads + kThreads - 1 - thread);
}
float Same(int block, int thread) { return static_cast<float>(block * kThreads + thread); }

K_DEVICE int Thread() { return static_cast<int>(threadIdx.x); }
K_DEVICE int Index() { return static_cast<int>(blockIdx.x) * kThreads + Thread(); }

// Partial sums are read while other warps may still have to write theirs.
template <bool kFixed>
__global__ void MissingBarrierAfterWrite(const float* x, float* y) {
  K_SHARED(float, parts, kThreads / kWarp);
  const float sum = warp_sum(ld(x + Index()));
  if (lane_id() == 0) parts[warp_id()] = sum;  // PLANTED barrier-after-write
  if (kFixed) __syncthreads();
  float total = 0.0f;
  for (int w = 0; w < kThreads / kWarp; ++w) total += parts[w];  // PLANTED barrier-after-write
  st(y + Index(), total);
}

// The buffer is written for the next turn while others may still read this one's.
template <bool kFixed>
__global__ void MissingBarrierBeforeReuse(const float* x, float* y) {
  K_SHARED(float, buffer, kThreads);
  float sum = 0.0f;
  for (int turn = 0; turn < kTurns; ++turn) {
    const float value = ld(x + Index()) * (turn + 1);
    buffer[Thread()] = value;  // PLANTED barrier-before-reuse
    __syncthreads();
    sum += buffer[kThreads - 1 - Thread()];  // PLANTED barrier-before-reuse
    if (kFixed) __syncthreads();
  }
  st(y + Index(), sum / 10.0f);
}

template <bool kFixed>
__global__ void MissingCopyWait(const float* x, float* y) {
  K_SHARED(float, buffer, kThreads);
  cp_async_4(&buffer[Thread()], x + Index(), true);  // PLANTED copy-wait
  cp_commit();
  if (kFixed) cp_wait<0>();
  __syncthreads();
  st(y + Index(), buffer[kThreads - 1 - Thread()]);
}

// Waits, but for an older group than the one that is read.
template <bool kFixed>
__global__ void WeakCopyWait(const float* x, float* y) {
  K_SHARED(float, buffer, kThreads);
  cp_async_4(&buffer[Thread()], x + Index(), true);
  cp_commit();
  cp_wait<kFixed ? 0 : 1>();
  __syncthreads();
  const float value = buffer[kThreads - 1 - Thread()];  // PLANTED weak-copy-wait
  cp_wait<0>();
  st(y + Index(), value);
}

// A copy into one of two buffers is issued while others may still read it; it lands later, when all
// have read.
template <bool kFixed>
__global__ void MissingBarrierBeforeCopy(const float* x, float* y) {
  K_SHARED(float, buffers, 2 * kThreads);
  const auto fetch = [&](int turn) {
    float* to = &buffers[turn % 2 * kThreads + Thread()];
    cp_async_4(to, x + Index(), true);  // PLANTED barrier-before-copy
    cp_commit();
  };
  float sum = 0.0f;
  fetch(0);
  for (int turn = 0; turn < kTurns; ++turn) {
    if (turn + 1 < kTurns) {
      fetch(turn + 1);
      cp_wait<1>();
    } else {
      cp_wait<0>();
    }
    __syncthreads();
    sum += buffers[turn % 2 * kThreads + kThreads - 1 - Thread()];  // PLANTED barrier-before-copy
    if (kFixed) __syncthreads();
  }
  st(y + Index(), sum / kTurns);
}

template <bool kFixed>
__global__ void StaticOverrun(const float* x, float* y) {
  K_SHARED(float, buffer, kThreads);
  const int shift = kFixed ? 0 : 1;
  buffer[Thread() + shift] = ld(x + Index());  // PLANTED static-overrun
  __syncthreads();
  st(y + Index(), buffer[Thread() + shift]);
}

template <bool kFixed>
__global__ void DynamicOverrun(const float* x, float* y) {
  K_DYN_SMEM(float, buffer);
  buffer[Thread()] = ld(x + Index());  // PLANTED dynamic-overrun
  __syncthreads();
  st(y + Index(), buffer[Thread()]);
}

// Two halves of a block wait at two barriers.
template <bool kFixed>
__global__ void DivergentBarrier(const float* x, float* y) {
  K_SHARED(float, buffer, kThreads);
  buffer[Thread()] = ld(x + Index());
  if (kFixed || Thread() < kThreads / 2) {
    __syncthreads();  // PLANTED divergent-barrier
  } else {
    __syncthreads();  // PLANTED divergent-barrier
  }
  st(y + Index(), buffer[kThreads - 1 - Thread()]);
}

// Some threads return and leave the others at the barrier.
template <bool kFixed>
__global__ void AbandonedBarrier(const float* x, float* y) {
  K_SHARED(float, buffer, kThreads);
  buffer[Thread()] = ld(x + Index());
  if (!kFixed && Thread() == 5) return;
  __syncthreads();  // PLANTED abandoned-barrier
  st(y + Index(), buffer[kThreads - 1 - Thread()]);
}

template <bool kFixed>
__global__ void DivergentShuffle(const float* x, float* y) {
  float value = ld(x + Index());
  if (kFixed || lane_id() < 16) {
    value = __shfl_xor_sync(kFullMask, value, 1);  // PLANTED divergent-shuffle
  }
  value = __shfl_xor_sync(kFullMask, value, 1);  // PLANTED divergent-shuffle
  st(y + Index(), value);
}

// The mask leaves out lanes that take part.
template <bool kFixed>
__global__ void WrongMask(const float* x, float* y) {
  float value = ld(x + Index());
  value = __shfl_xor_sync(kFixed ? kFullMask : 0xffffu, value, 1);  // PLANTED wrong-mask
  value = __shfl_xor_sync(kFullMask, value, 1);
  st(y + Index(), value);
}

template <bool kFixed>
__global__ void CopiesInFlight(const float* x, float* y) {
  K_SHARED(float, buffer, kThreads);
  const float value = ld(x + Index());
  cp_async_4(&buffer[Thread()], x + Index(), true);  // PLANTED copies-in-flight
  if (kFixed) {
    cp_commit();
    cp_wait<0>();
  }
  st(y + Index(), value);
}

template <bool kFixed>
__global__ void UninitialisedShared(const float* x, float* y) {
  K_SHARED(float, buffer, kThreads);
  if (kFixed || Thread() % 3 != 0) buffer[Thread()] = ld(x + Index());
  __syncthreads();
  st(y + Index(), buffer[Thread()]);
}

// All threads of a block write one value; only its being the same makes the result right.
template <bool kFixed>
__global__ void SharedRace(const float* x, float* y) {
  K_SHARED(float, last, 1);
  if (!kFixed || Thread() == 0) last[0] = ld(x);  // PLANTED shared-race
  __syncthreads();
  st(y + Index(), ld(x + Index()) + last[0]);
}

// Lanes of one warp count on running together.
template <bool kFixed>
__global__ void LockStep(const float* x, float* y) {
  K_SHARED(float, buffer, kThreads);
  buffer[Thread()] = ld(x + Index());  // PLANTED lock-step
  if (kFixed) __syncwarp();
  const float neighbour = buffer[Thread() ^ 1];  // PLANTED lock-step
  st(y + Index(), __shfl_xor_sync(kFullMask, neighbour, 1));
}

// Blocks write the same words of global memory.
template <bool kFixed>
__global__ void BlockRace(const float* x, float* y) {
  if (!kFixed || blockIdx.x == 0) {
    for (int b = 0; b < kBlocks; ++b) {
      const int i = b * kThreads + Thread();
      st(y + i, ld(x + i));  // PLANTED block-race
    }
  }
}

struct Bug {
  const char* name;
  void (*planted)(const float*, float*);
  void (*fixed)(const float*, float*);
  Expected expected;
};

constexpr Bug kBugs[] = {
    {"barrier-after-write", MissingBarrierAfterWrite<false>, MissingBarrierAfterWrite<true>,
     SumOfBlock},
    {"barrier-before-reuse", MissingBarrierBeforeReuse<false>, MissingBarrierBeforeReuse<true>,
     Opposite},
    {"copy-wait", MissingCopyWait<false>, MissingCopyWait<true>, Opposite},
    {"weak-copy-wait", WeakCopyWait<false>, WeakCopyWait<true>, Opposite},
    {"barrier-before-copy", MissingBarrierBeforeCopy<false>, MissingBarrierBeforeCopy<true>,
     Opposite},
    {"static-overrun", StaticOverrun<false>, StaticOverrun<true>, Same},
    {"dynamic-overrun", DynamicOverrun<false>, DynamicOverrun<true>, Same},
    {"divergent-barrier", DivergentBarrier<false>, DivergentBarrier<true>, Opposite},
    {"abandoned-barrier", AbandonedBarrier<false>, AbandonedBarrier<true>, Opposite},
    {"divergent-shuffle", DivergentShuffle<false>, DivergentShuffle<true>, Same},
    {"wrong-mask", WrongMask<false>, WrongMask<true>, Same},
    {"copies-in-flight", CopiesInFlight<false>, CopiesInFlight<true>, Same},
    {"uninitialised-shared", UninitialisedShared<false>, UninitialisedShared<true>, Same},
    {"shared-race", SharedRace<false>, SharedRace<true>, Same},
    {"lock-step", LockStep<false>, LockStep<true>, Same},
    {"block-race", BlockRace<false>, BlockRace<true>, Same},
};

int Run(const Bug& bug, bool planted, emu::Schedule schedule) {
  std::vector<float> x(kBlocks * kThreads), y(x.size(), -1.0f);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  emu::Stream stream(schedule, /*os_threads=*/2);
  const bool short_smem = planted && std::string(bug.name) == "dynamic-overrun";
  launch(planted ? bug.planted : bug.fixed, kBlocks, kThreads,
         kThreads * sizeof(float) - (short_smem ? 32 : 0), &stream, x.data(), y.data());
  if (const std::string error = TakeLaunchError(&stream); !error.empty()) {
    std::printf("error: %s\n", error.c_str());
    return 1;
  }
  for (int b = 0; b < kBlocks; ++b) {
    for (int t = 0; t < kThreads; ++t) {
      if (y[b * kThreads + t] != bug.expected(b, t)) {
        std::printf("wrong result: y[%d, %d] = %g\n", b, t, y[b * kThreads + t]);
        return 1;
      }
    }
  }
  std::printf("right result\n");
  return 0;
}

}  // namespace tandem::kernels::K_WORLD

int main(int argc, char** argv) {
  using namespace tandem::kernels;
  if (argc < 4) return 2;
  const std::string name = argv[1];
  const bool planted = std::string(argv[2]) == "planted";
  for (const K_WORLD::Bug& bug : K_WORLD::kBugs) {
    if (name != bug.name) continue;
    for (int i = 3; i < argc; ++i) {
      const std::string order = argv[i];
      emu::Schedule schedule;
      if (order == "reverse") {
        schedule.order = emu::Order::kReverse;
      } else if (order != "forward") {
        schedule = {emu::Order::kSeeded, std::strtoull(order.c_str(), nullptr, 10)};
      }
      if (const int code = K_WORLD::Run(bug, planted, schedule); code != 0) return code;
    }
    return 0;
  }
  return 2;
}
