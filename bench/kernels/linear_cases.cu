// Products: generated rows in every weight format, GeGLU, the head, experts, prompt rows.
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/kernels/kernel_bench.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/head.h"
#include "kernels/cuda/p_linear.h"
#include "kernels/cuda/w_linear.h"
#include "kernels/cuda/w_linear_codes.h"
#include "kernels/cuda/w_linear_pack.h"
#include "kernels/weight_codes.h"

namespace tandem::kernels::K_WORLD {
namespace {

const char* Name(WeightFormat format) {
  return format == WeightFormat::kBf16 ? "bf16" : format == WeightFormat::kInt8 ? "int8" : "int4";
}

uint64_t WeightBytes(WeightFormat format, int out, int in) {
  if (format == WeightFormat::kBf16) return uint64_t{2} * out * in;
  return PackedCodeBytes(format, out, in) + 2 * PackedCodeScales(out, in);
}

// Packed matrices [out, in] behind each other, of random weights.
ExpertMatrices TakeMatrices(Bench& bench, WeightFormat format, int count, int out, int in) {
  ExpertMatrices m;
  m.format = format;
  if (format == WeightFormat::kBf16) {
    m.stride = int64_t{out} * in;
    m.w = bench.Take<bf16>(count * m.stride, Content::kValues);
  } else {
    m.stride = static_cast<int64_t>(PackedCodeBytes(format, out, in));
    m.scale_stride = static_cast<int64_t>(PackedCodeScales(out, in));
    m.codes = bench.Take<std::byte>(count * m.stride, Content::kBytes);
    m.scales = bench.Take<f16>(count * m.scale_stride, Content::kValues);
  }
  return m;
}

absl::Status RunLinear(Bench& bench, WeightFormat format, int rows, int out, int in,
                       double gate_us) {
  const uint64_t bytes = WeightBytes(format, out, in);
  BenchCase c;
  c.name = absl::StrCat("w_linear ", Name(format), " ", out, "x", in, ", ", rows, " rows");
  c.bytes = bytes + uint64_t{2} * rows * in + uint64_t{4} * rows * out;
  c.gate_us = gate_us;
  c.calls = bench.CallsPastL2(bytes);
  const bf16* x = bench.Take<bf16>(int64_t{rows} * in, Content::kValues);
  float* y = bench.Take<float>(int64_t{rows} * out, Content::kNothing);
  const ExpertMatrices w = TakeMatrices(bench, format, c.calls, out, in);
  c.give = [=](int call, DeviceStream& stream) {
    if (format == WeightFormat::kBf16) {
      WLinear({.x = x,
               .x_stride = in,
               .w = w.w + call * w.stride,
               .y_f32 = y,
               .y_stride = out,
               .rows = rows,
               .in = in,
               .out = out},
              stream.get());
    } else {
      WLinearCodes({.x = x,
                    .x_stride = in,
                    .format = format,
                    .codes = w.codes + call * w.stride,
                    .scales = w.scales + call * w.scale_stride,
                    .y_f32 = y,
                    .y_stride = out,
                    .rows = rows,
                    .in = in,
                    .out = out},
                   stream.get());
    }
  };
  return bench.Run(c);
}

absl::Status RunGeglu(Bench& bench, WeightFormat format, int rows, int width, int in) {
  const int out = GateUpRows(width);
  const uint64_t bytes = WeightBytes(format, out, in);
  BenchCase c;
  c.name = absl::StrCat("geglu ", Name(format), " 2x", width, "x", in, ", ", rows, " rows");
  c.bytes = bytes + uint64_t{2} * rows * in + uint64_t{2} * rows * width;
  c.calls = bench.CallsPastL2(bytes);
  const bf16* x = bench.Take<bf16>(int64_t{rows} * in, Content::kValues);
  bf16* y = bench.Take<bf16>(int64_t{rows} * width, Content::kNothing);
  const ExpertMatrices w = TakeMatrices(bench, format, c.calls, out, in);
  c.give = [=](int call, DeviceStream& stream) {
    if (format == WeightFormat::kBf16) {
      WLinearGeglu({.x = x,
                    .x_stride = in,
                    .w = w.w + call * w.stride,
                    .y = y,
                    .y_stride = width,
                    .rows = rows,
                    .in = in,
                    .width = width},
                   stream.get());
    } else {
      WLinearCodesGeglu({.x = x,
                         .x_stride = in,
                         .format = format,
                         .codes = w.codes + call * w.stride,
                         .scales = w.scales + call * w.scale_stride,
                         .y = y,
                         .y_stride = width,
                         .rows = rows,
                         .in = in,
                         .width = width},
                        stream.get());
    }
  };
  return bench.Run(c);
}

absl::Status RunHead(Bench& bench, int rows, int vocab, int dim) {
  BenchCase c;
  c.name = absl::StrCat("head and argmax bf16 ", vocab, "x", dim, ", ", rows, " rows");
  c.bytes = uint64_t{2} * vocab * dim + uint64_t{2} * rows * dim;
  const bf16* x = bench.Take<bf16>(int64_t{rows} * dim, Content::kValues);
  const bf16* table = bench.Take<bf16>(int64_t{vocab} * dim, Content::kValues);
  auto* scratch =
      bench.Take<HeadChoice>(static_cast<int64_t>(HeadScratch(rows, vocab)), Content::kNothing);
  auto* choices = bench.Take<HeadChoice>(rows, Content::kNothing);
  c.give = [=](int, DeviceStream& stream) {
    HeadArgmax({.x = x,
                .x_stride = dim,
                .table = table,
                .cap = 30.0f,
                .rows = rows,
                .dim = dim,
                .vocab = vocab},
               scratch, choices, stream.get());
  };
  return bench.Run(c);
}

absl::Status RunExperts(Bench& bench, WeightFormat format, int rows, int experts, int top_k,
                        int width, int dim) {
  // Given experts of each row, ascending.
  std::mt19937 random(rows);
  std::vector<int> all(experts);
  std::iota(all.begin(), all.end(), 0);
  std::vector<int32_t> ids;
  std::vector<bool> chosen(experts);
  for (int t = 0; t < rows; ++t) {
    std::shuffle(all.begin(), all.end(), random);
    std::sort(all.begin(), all.begin() + top_k);
    ids.insert(ids.end(), all.begin(), all.begin() + top_k);
    for (int i = 0; i < top_k; ++i) chosen[all[i]] = true;
  }
  const auto read = static_cast<uint64_t>(std::count(chosen.begin(), chosen.end(), true));
  const int gate_up_rows = GateUpRows(width);
  BenchCase c;
  c.name = absl::StrCat("experts ", Name(format), " ", top_k, " of ", experts, " ", width, "x", dim,
                        ", ", rows, " rows");
  c.bytes = read * (WeightBytes(format, gate_up_rows, dim) + WeightBytes(format, dim, width)) +
            uint64_t{2} * rows * dim + uint64_t{4} * rows * dim;
  c.calls = bench.CallsPastL2(c.bytes);
  ExpertsArgs args = {.x = bench.Take<bf16>(int64_t{rows} * dim, Content::kValues),
                      .x_stride = dim,
                      .gate_up = {},
                      .down = {},
                      .ids = bench.Upload(ids),
                      .weights = bench.Take<float>(int64_t{rows} * top_k, Content::kValues),
                      .out = bench.Take<float>(int64_t{rows} * dim, Content::kNothing),
                      .rows = rows,
                      .dim = dim,
                      .width = width,
                      .experts = experts,
                      .top_k = top_k};
  const auto workspace_bytes =
      static_cast<int64_t>(ExpertsWorkspaceBytes(rows, dim, width, experts, top_k));
  std::byte* workspace = bench.Take<std::byte>(workspace_bytes, Content::kNothing);
  std::vector<ExpertsArgs> calls;
  for (int i = 0; i < c.calls; ++i) {
    args.gate_up = TakeMatrices(bench, format, experts, gate_up_rows, dim);
    args.down = TakeMatrices(bench, format, experts, dim, width);
    calls.push_back(args);
  }
  c.give = [=](int call, DeviceStream& stream) { Experts(calls[call], workspace, stream.get()); };
  return bench.Run(c);
}

absl::Status RunPrompt(Bench& bench, int rows, int out, int in) {
  BenchCase c;
  c.name = absl::StrCat("p_linear bf16 ", out, "x", in, ", ", rows, " rows");
  c.bytes = uint64_t{2} * out * in + uint64_t{2} * rows * in + uint64_t{4} * rows * out;
  c.flops = 2.0 * rows * in * out;
  const bf16* x = bench.Take<bf16>(int64_t{rows} * in, Content::kValues);
  const bf16* w = bench.Take<bf16>(int64_t{out} * in, Content::kValues);
  float* y = bench.Take<float>(int64_t{rows} * out, Content::kNothing);
  c.give = [=](int, DeviceStream& stream) {
    PLinear({.x = x,
             .x_stride = in,
             .w = w,
             .y_f32 = y,
             .y_stride = out,
             .rows = rows,
             .in = in,
             .out = out},
            stream.get());
  };
  return bench.Run(c);
}

}  // namespace

absl::Status RunLinearCases(Bench& bench) {
  absl::Status status;
  // 31B's feed-forward layer.
  const int width = bench.Size(21504, 48), dim = bench.Size(5376, 64);
  for (const WeightFormat format :
       {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (const int rows : {1, 5, 16, 64, 128}) {
      double gate_us = 0.0;
      if (rows == 1 && format == WeightFormat::kBf16) gate_us = 75.0;
      if (rows == 1 && format == WeightFormat::kInt4) gate_us = 25.0;
      status.Update(RunLinear(bench, format, rows, width, dim, gate_us));
    }
    status.Update(RunLinear(bench, format, 1, dim, width, 0.0));
    status.Update(RunGeglu(bench, format, 1, width, dim));
    // 26B-A4B's experts.
    for (const int rows : {1, 16, 64}) {
      status.Update(RunExperts(bench, format, rows, bench.Size(128, 4), bench.Size(8, 2),
                               bench.Size(704, 16), bench.Size(2816, 64)));
    }
  }
  for (const int rows : {1, 16}) {
    status.Update(RunHead(bench, rows, bench.Size(262144, 200), dim));
  }
  for (const int rows : {bench.Size(512, 3), bench.Size(2048, 20)}) {
    status.Update(RunPrompt(bench, rows, width, dim));
  }
  return status;
}

}  // namespace tandem::kernels::K_WORLD
