// What works row by row: norms, embeddings, per-layer embeddings.

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_format.h"
#include "bench/random.h"
#include "server/cli/bench_kernels_cases.h"

namespace tandem::server {
namespace {

constexpr int kTableRows = 4096;    // of a table of embeddings, among which ids choose
constexpr int kPleTableRows = 512;  // likewise

// One generated row, as many as there may be, and a chunk of a prompt.
std::vector<int> RowCounts(const KernelRows& rows) {
  return {rows.generated.front(), rows.generated.back(), rows.prompt};
}

}  // namespace

PlainRows::PlainRows(int count, int ids_below) : ids(count), positions(count) {
  bench::Random random(/*seed=*/2, /*stream=*/0);
  for (int32_t& id : ids) id = static_cast<int32_t>(random.Below(ids_below));
  std::iota(positions.begin(), positions.end(), 0);
}

kernels::RowsArgs PlainRows::Args(bool prompt) const {
  return {.ids = ids,
          .positions = positions,
          .prompt = prompt,
          .max_rows = static_cast<int>(ids.size())};
}

absl::Status RunNormCases(const engine::ModelConfig& config, const KernelRows& rows,
                          KernelBench& bench) {
  const kernels::Ops& ops = bench.ops();
  const int dim = config.hidden;
  absl::Status status;
  for (const int count : RowCounts(rows)) {
    const PlainRows plain(count, config.vocab);
    const int64_t values = int64_t{count} * dim;
    const int calls = bench.Copies(NormAddBytes(count, dim));
    const float* const x = bench.TakeFloats(calls * values);
    const float* const weight = bench.TakeFloats(dim);
    std::byte* const y = bench.Take<std::byte>(calls * values * ops.operand_bytes);
    float* const h = bench.TakeFloats(calls * values);
    ops.stage(ops.backend, plain.Args(/*prompt=*/false));
    status = bench.Run({.name = absl::StrFormat("norm, %d values", dim),
                        .rows = count,
                        .bytes = RmsNormBytes(count, dim, ops.operand_bytes),
                        .calls = calls},
                       [&](int call) {
                         ops.rms_norm(ops.backend, {.x = x + call * values,
                                                    .weight = weight,
                                                    .y = y + call * values * ops.operand_bytes,
                                                    .rows = count,
                                                    .dim = dim,
                                                    .eps = config.rms_eps});
                       });
    if (!status.ok()) return status;
    status = bench.Run({.name = absl::StrFormat("norm and add, %d values", dim),
                        .rows = count,
                        .bytes = NormAddBytes(count, dim),
                        .calls = calls},
                       [&](int call) {
                         ops.norm_add(ops.backend, {.a = x + call * values,
                                                    .weight = weight,
                                                    .h = h + call * values,
                                                    .rows = count,
                                                    .dim = dim,
                                                    .eps = config.rms_eps});
                       });
    if (!status.ok()) return status;
    bench.Reset();
  }
  return status;
}

absl::Status RunEmbedCases(const engine::ModelConfig& config, const KernelRows& rows,
                           KernelBench& bench) {
  const kernels::Ops& ops = bench.ops();
  const int dim = config.hidden;
  const int table_rows = std::min(config.vocab, kTableRows);
  absl::Status status;
  for (const int count : RowCounts(rows)) {
    const PlainRows plain(count, table_rows);
    const ProductShape table = {kernels::WeightFormat::kBf16, table_rows, dim};
    const int calls = bench.Copies(MatrixBytes(table));
    const std::vector<kernels::WeightView> tables = bench.TakeMatrices(table, calls);
    float* const out = bench.Take<float>(int64_t{count} * dim);
    const kernels::StagedRows staged = ops.stage(ops.backend, plain.Args(/*prompt=*/false));
    status =
        bench.Run({.name = absl::StrFormat("bf16, %d values", dim),
                   .rows = count,
                   .bytes = EmbedBytes(count, dim),
                   .calls = calls},
                  [&](int call) {
                    ops.embed(ops.backend, {.table = tables[call],
                                            .ids = {staged.ids, static_cast<size_t>(staged.rows)},
                                            .scale = 1.0f,
                                            .out = out});
                  });
    if (!status.ok()) return status;
    bench.Reset();
  }
  return status;
}

absl::Status RunPleCases(const engine::ModelConfig& config, const KernelRows& rows,
                         KernelBench& bench) {
  const kernels::Ops& ops = bench.ops();
  const int64_t row_values = int64_t{config.num_layers()} * config.ple_width;
  const int table_rows = std::min(config.ple_vocab, kPleTableRows);
  absl::Status status;
  for (const int count : RowCounts(rows)) {
    PlainRows plain(count, table_rows);
    const int calls = bench.Copies(PleBytes(count, config.num_layers(), config.ple_width));
    // The table is the host's, whatever the rest is.
    auto* const table = reinterpret_cast<kernels::Bf16*>(
        bench.TakeBytes(table_rows * row_values * sizeof(kernels::Bf16), kernels::HostMemory()));
    if (table != nullptr) {
      bench::Random random(/*seed=*/4, /*stream=*/0);
      for (int64_t i = 0; i < table_rows * row_values; ++i) {
        table[i] = kernels::ToBf16(static_cast<float>(random.Unit() - 0.5));
      }
    }
    const float* const norm = bench.TakeFloats(config.ple_width);
    float* const ctx = bench.TakeFloats(calls * count * row_values);
    kernels::RowsArgs args = plain.Args(/*prompt=*/false);
    args.ple_table = table;
    args.ple_table_rows = table_rows;
    args.ple_row_values = row_values;
    const kernels::StagedRows staged = ops.stage(ops.backend, args);
    status = bench.Run(
        {.name = absl::StrFormat("%d layers of %d", config.num_layers(), config.ple_width),
         .rows = count,
         .bytes = PleBytes(count, config.num_layers(), config.ple_width),
         .calls = calls},
        [&](int call) {
          ops.ple(ops.backend, {.ids = {staged.ids, static_cast<size_t>(staged.rows)},
                                .table = table,
                                .table_rows = table_rows,
                                .norm = norm,
                                .ctx = ctx + call * count * row_values,
                                .layers = config.num_layers(),
                                .width = config.ple_width,
                                .ctx_scale = 1.0f,
                                .table_scale = 1.0f,
                                .out_scale = std::sqrt(0.5f),
                                .eps = config.rms_eps});
        });
    if (!status.ok()) return status;
    bench.Reset();
  }
  return status;
}

}  // namespace tandem::server
