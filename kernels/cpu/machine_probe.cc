#include "kernels/cpu/machine_probe.h"

#include <emmintrin.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/product.h"
#include "kernels/memory.h"

namespace tandem::kernels {
namespace {

constexpr size_t kChunkBytes = size_t{2} << 20;
constexpr size_t kLeastReadBytes = size_t{512} << 20;
constexpr size_t kMostReadBytes = size_t{2} << 30;
constexpr int kReadPasses = 12;
constexpr int kPeakRuns = 10;
constexpr int64_t kPeakIterations = 2'000'000;

double Seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Reads 16 bytes of every line of a chunk, which moves all of it with the fewest instructions, as
// two streams, which keep more lines under way than one.
int TouchChunk(const std::byte* chunk) {
  constexpr size_t kStream = kChunkBytes / 2;
  constexpr size_t kAhead = 4096;
  __m128i sum[2] = {};
  for (size_t i = 0; i < kStream; i += 64) {
    for (int stream = 0; stream < 2; ++stream) {
      const std::byte* line = chunk + stream * kStream + i;
      _mm_prefetch(line + kAhead, _MM_HINT_T0);
      sum[stream] =
          _mm_xor_si128(sum[stream], _mm_load_si128(reinterpret_cast<const __m128i*>(line)));
    }
  }
  return _mm_cvtsi128_si32(_mm_xor_si128(sum[0], sum[1]));
}

int64_t MultiplyAddReference(int64_t iterations) {
  double sum[8] = {};
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    for (double& s : sum) {
      s = s * 0.5 + 0.25;
      asm volatile("" : "+x"(s));  // keeps every product
    }
  }
  return iterations * 8;
}

}  // namespace

double MeasureReadBandwidth(CpuBackend& backend) {
  const long l3_bytes = std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE));
  const int64_t chunks =
      std::clamp(size_t{4} * l3_bytes, kLeastReadBytes, kMostReadBytes) / kChunkBytes;
  absl::StatusOr<Memory> memory = HostMemory().Allocate(chunks * kChunkBytes);
  if (!memory.ok()) return 0.0;
  const auto chunk = [&](int64_t i) { return memory->data() + i * kChunkBytes; };
  backend.team.ForEach(chunks, 1, [&](int, int64_t begin, int64_t end) {
    std::memset(chunk(begin), 1, (end - begin) * kChunkBytes);  // backs the pages
  });
  double best = 0.0;
  std::atomic<int> sum{0};
  for (int pass = 0; pass < kReadPasses; ++pass) {
    const double start = Seconds();
    backend.team.ForEach(chunks, 1, [&](int, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sum ^= TouchChunk(chunk(i));
    });
    best = std::max(best, static_cast<double>(chunks * kChunkBytes) / (Seconds() - start));
  }
  return best;
}

double MeasureMultiplyAddPeak(CpuBackend& backend, WeightFormat format) {
  int64_t (*const multiply_add)(int64_t) = backend.isa == CpuIsa::kRef
                                               ? MultiplyAddReference
                                               : KernelOf(backend, format, false).multiply_add;
  double best = 0.0;
  for (int run = 0; run < kPeakRuns; ++run) {
    struct Work {
      int64_t (*multiply_add)(int64_t);
      std::atomic<int64_t> done{0};
    } work{multiply_add};
    const double start = Seconds();
    backend.team.Run(
        [](void* context, int, int) {
          Work& work = *static_cast<Work*>(context);
          work.done += work.multiply_add(kPeakIterations);
        },
        &work);
    best = std::max(best, static_cast<double>(work.done) / (Seconds() - start));
  }
  return best;
}

}  // namespace tandem::kernels
