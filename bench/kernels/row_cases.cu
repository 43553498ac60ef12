// Copies, by which everything else is measured, and row-wise kernels.
#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/kernels/kernel_bench.h"
#include "kernels/cuda/norms.h"
#include "kernels/cuda/row_ops.h"

namespace tandem::kernels::K_WORLD {
namespace {

absl::Status RunCopy(Bench& bench, int64_t size) {
  BenchCase c;
  c.name = kCopyName;
  c.bytes = static_cast<uint64_t>(2 * size);
  const std::byte* from = bench.Take<std::byte>(size, Content::kBytes);
  std::byte* to = bench.Take<std::byte>(size, Content::kNothing);
  c.give = [=](int, DeviceStream& stream) {
    stream.CopyOnDevice(to, from, static_cast<size_t>(size)).IgnoreError();
  };
  return bench.Run(c);
}

struct NormArrays {
  const float* x;
  const float* weight;
  bf16* y;
  float* h;
};

absl::Status RunNorms(Bench& bench, int rows, int dim) {
  const int64_t count = int64_t{rows} * dim;
  BenchCase c;
  c.name = absl::StrCat("norm to operands, ", rows, "x", dim);
  c.bytes = static_cast<uint64_t>((4 + 2) * count + 4 * dim);
  c.calls = bench.CallsPastL2(c.bytes);
  const auto take = [&] {
    std::vector<NormArrays> arrays;
    for (int i = 0; i < c.calls; ++i) {
      arrays.push_back({.x = bench.Take<float>(count, Content::kValues),
                        .weight = bench.Take<float>(dim, Content::kValues),
                        .y = bench.Take<bf16>(count, Content::kNothing),
                        .h = bench.Take<float>(count, Content::kValues)});
    }
    return arrays;
  };
  c.give = [=, arrays = take()](int call, DeviceStream& stream) {
    const NormArrays& a = arrays[call];
    NormRows({.x = a.x, .weight = a.weight, .y = a.y, .rows = rows, .dim = dim, .eps = 1e-6f},
             stream.get());
  };
  absl::Status status = bench.Run(c);
  c.name = absl::StrCat("norm and add, ", rows, "x", dim);
  c.bytes = static_cast<uint64_t>(12 * count + 4 * dim);
  c.give = [=, arrays = take()](int call, DeviceStream& stream) {
    const NormArrays& a = arrays[call];
    NormAdd({.a = a.x, .weight = a.weight, .h = a.h, .rows = rows, .dim = dim, .eps = 1e-6f},
            stream.get());
  };
  status.Update(bench.Run(c));
  return status;
}

absl::Status RunGeluMul(Bench& bench, int rows, int dim) {
  const int64_t count = int64_t{rows} * dim;
  BenchCase c;
  c.name = absl::StrCat("gelu and product, ", rows, "x", dim);
  c.bytes = static_cast<uint64_t>((8 + 2) * count);
  c.calls = bench.CallsPastL2(c.bytes);
  const float* a = bench.Take<float>(c.calls * count, Content::kValues);
  const float* b = bench.Take<float>(c.calls * count, Content::kValues);
  bf16* y = bench.Take<bf16>(c.calls * count, Content::kNothing);
  c.give = [=](int call, DeviceStream& stream) {
    GeluMul({.a = a + call * count,
             .a_stride = dim,
             .b = b + call * count,
             .b_stride = dim,
             .y = y + call * count,
             .y_stride = dim,
             .rows = rows,
             .dim = dim},
            stream.get());
  };
  return bench.Run(c);
}

}  // namespace

absl::Status RunRowCases(Bench& bench) {
  const int dim = bench.Size(5376, 64);
  absl::Status status = RunCopy(bench, bench.Size(1 << 30, 1 << 16));
  for (const int rows : {1, bench.Size(128, 3), bench.Size(8192, 5)}) {
    status.Update(RunNorms(bench, rows, dim));
  }
  status.Update(RunGeluMul(bench, bench.Size(8192, 3), dim));
  return status;
}

}  // namespace tandem::kernels::K_WORLD
