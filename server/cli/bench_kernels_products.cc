// Products: linear layers, GeGLU, the head, experts.

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

#include "absl/strings/str_format.h"
#include "bench/random.h"
#include "server/cli/bench_kernels_cases.h"

namespace tandem::server {
namespace {

using kernels::WeightFormat;

constexpr std::array<WeightFormat, 3> kFormats = {WeightFormat::kBf16, WeightFormat::kInt8,
                                                  WeightFormat::kInt4};

const char* Name(WeightFormat format) {
  if (format == WeightFormat::kBf16) return "bf16";
  return format == WeightFormat::kInt8 ? "int8" : "int4";
}

struct ClassRows {
  int rows = 0;
  bool prompt = false;
};

// Generated rows, and a chunk of a prompt.
std::vector<ClassRows> Classes(const KernelRows& rows) {
  std::vector<ClassRows> classes;
  for (const int count : rows.generated) classes.push_back({count, false});
  classes.push_back({rows.prompt, true});
  return classes;
}

// The same matrix in every class of rows.
absl::Status RunLinear(const engine::ModelConfig& config, const ProductShape& shape,
                       std::span<const ClassRows> classes, KernelBench& bench) {
  const kernels::Ops& ops = bench.ops();
  const int copies = bench.Copies(MatrixBytes(shape));
  const std::vector<kernels::WeightView> w = bench.TakeMatrices(shape, copies);
  absl::Status status;
  for (const ClassRows& each : classes) {
    const void* const x = bench.TakeOperands(uint64_t(each.rows) * shape.in);
    float* const y = bench.Take<float>(uint64_t(each.rows) * shape.out);
    const KernelCase test = {
        .name = absl::StrFormat("%s %dx%d", Name(shape.format), shape.out, shape.in),
        .rows = each.rows,
        .prompt = each.prompt,
        .bytes = LinearBytes(shape, each.rows, ops.operand_bytes),
        .calls = copies};
    const PlainRows plain(each.rows, config.vocab);
    ops.stage(ops.backend, plain.Args(each.prompt));
    status = bench.Run(test, [&](int call) {
      ops.linear(ops.backend, {.x = x,
                               .x_stride = shape.in,
                               .w = w[call],
                               .y = y,
                               .y_stride = shape.out,
                               .rows = each.rows,
                               .prompt = each.prompt});
    });
    if (!status.ok()) break;
  }
  bench.Reset();
  return status;
}

// Experts of each row, ascending; between them the sets of `calls` calls name all there are, as far
// as possible.
std::vector<int32_t> ChooseExperts(int calls, int rows, int top_k, int experts) {
  bench::Random random(/*seed=*/3, static_cast<uint64_t>(rows));
  std::vector<int32_t> order(experts);
  std::iota(order.begin(), order.end(), 0);
  size_t next = order.size();
  std::vector<int32_t> ids;
  for (int row = 0; row < calls * rows; ++row) {
    if (next + top_k > order.size()) {
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.Below(i)]);
      next = 0;
    }
    ids.insert(ids.end(), order.begin() + next, order.begin() + next + top_k);
    std::sort(ids.end() - top_k, ids.end());
    next += top_k;
  }
  return ids;
}

absl::Status RunExperts(const engine::ModelConfig& config, WeightFormat format,
                        const KernelRows& rows, KernelBench& bench) {
  const kernels::Ops& ops = bench.ops();
  const ExpertShape shape = {.format = format,
                             .width = config.expert_width,
                             .dim = config.hidden,
                             .top_k = config.experts_per_token};
  const std::vector<kernels::WeightView> gate_up =
      bench.TakeMatrices({format, GateUpRows(shape.width), shape.dim}, config.experts);
  const std::vector<kernels::WeightView> down =
      bench.TakeMatrices({format, shape.dim, shape.width}, config.experts);
  const int calls = std::max(1, config.experts / shape.top_k);
  absl::Status status;
  for (const ClassRows& each : Classes(rows)) {
    const std::vector<int32_t> chosen =
        ChooseExperts(calls, each.rows, shape.top_k, config.experts);
    const size_t ids_of_call = size_t(each.rows) * shape.top_k;
    uint64_t bytes = 0;
    for (int call = 0; call < calls; ++call) {
      const auto begin = chosen.begin() + static_cast<int64_t>(call * ids_of_call);
      const std::set<int32_t> read(begin, begin + static_cast<int64_t>(ids_of_call));
      bytes += ExpertsBytes(shape, static_cast<int>(read.size()), each.rows, ops.operand_bytes);
    }
    const void* const x = bench.TakeOperands(uint64_t(each.rows) * shape.dim);
    float* const out = bench.Take<float>(uint64_t(each.rows) * shape.dim);
    const float* const weights = bench.TakeFloats(ids_of_call);
    int32_t* const ids = bench.Take<int32_t>(chosen.size());
    if (!bench.failed()) {
      ops.write(ops.backend, ids, chosen.data(), chosen.size() * sizeof(int32_t));
    }
    const KernelCase test = {
        .name = absl::StrFormat("%s %d of %d, %dx%d", Name(format), shape.top_k, config.experts,
                                shape.width, shape.dim),
        .rows = each.rows,
        .prompt = each.prompt,
        .bytes = bytes / calls,
        .calls = each.prompt ? 1 : calls};
    const PlainRows plain(each.rows, config.vocab);
    ops.stage(ops.backend, plain.Args(each.prompt));
    status = bench.Run(test, [&](int call) {
      ops.experts(ops.backend, {.x = x,
                                .rows = each.rows,
                                .dim = shape.dim,
                                .width = shape.width,
                                .top_k = shape.top_k,
                                .gate_up = gate_up,
                                .down = down,
                                .ids = ids + call * ids_of_call,
                                .weights = weights,
                                .out = out});
    });
    if (!status.ok()) break;
  }
  bench.Reset();
  return status;
}

}  // namespace

// The projection back from the feed-forward width, the largest matrix of a layer but for GeGLU's.
absl::Status RunLinearCases(const engine::ModelConfig& config, const KernelRows& rows,
                            KernelBench& bench) {
  absl::Status status;
  for (const WeightFormat format : kFormats) {
    status = RunLinear(config, {format, config.hidden, config.layers[0].mlp_width}, Classes(rows),
                       bench);
    if (!status.ok()) return status;
  }
  return status;
}

absl::Status RunGegluCases(const engine::ModelConfig& config, const KernelRows& rows,
                           KernelBench& bench) {
  const kernels::Ops& ops = bench.ops();
  const int width = config.layers[0].mlp_width;
  absl::Status status;
  for (const WeightFormat format : kFormats) {
    const ProductShape shape = {format, GateUpRows(width), config.hidden};
    const int copies = bench.Copies(MatrixBytes(shape));
    const std::vector<kernels::WeightView> w = bench.TakeMatrices(shape, copies);
    for (const ClassRows& each : Classes(rows)) {
      const void* const x = bench.TakeOperands(uint64_t(each.rows) * shape.in);
      std::byte* const y = bench.Take<std::byte>(uint64_t(each.rows) * width * ops.operand_bytes);
      const KernelCase test = {
          .name = absl::StrFormat("%s 2x%dx%d", Name(format), width, shape.in),
          .rows = each.rows,
          .prompt = each.prompt,
          .bytes = GegluBytes(format, width, shape.in, each.rows, ops.operand_bytes),
          .calls = copies};
      const PlainRows plain(each.rows, config.vocab);
      ops.stage(ops.backend, plain.Args(each.prompt));
      status = bench.Run(test, [&](int call) {
        ops.linear_geglu(ops.backend, {.x = x,
                                       .x_stride = shape.in,
                                       .w = w[call],
                                       .y = y,
                                       .y_stride = width,
                                       .rows = each.rows,
                                       .width = width,
                                       .prompt = each.prompt});
      });
      if (!status.ok()) return status;
    }
    bench.Reset();
  }
  return status;
}

// At 8 bits under int8 and int4 weights alike.
absl::Status RunHeadCases(const engine::ModelConfig& config, const KernelRows& rows,
                          KernelBench& bench) {
  std::vector<ClassRows> classes;
  for (const int count : rows.generated) classes.push_back({count, false});
  absl::Status status;
  for (const WeightFormat format : {WeightFormat::kBf16, WeightFormat::kInt8}) {
    status = RunLinear(config, {format, config.vocab, config.hidden}, classes, bench);
    if (!status.ok()) return status;
  }
  return status;
}

absl::Status RunExpertsCases(const engine::ModelConfig& config, const KernelRows& rows,
                             KernelBench& bench) {
  absl::Status status;
  for (const WeightFormat format : kFormats) {
    status = RunExperts(config, format, rows, bench);
    if (!status.ok()) return status;
  }
  return status;
}

}  // namespace tandem::server
