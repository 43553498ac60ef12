// The operations of a model's layers that `tandem bench kernels` times, family by family
// (server/config/bench_kernels_options.h).
//
// Not here  how they are timed (bench_kernels_measure.h), what they move (kernel_bytes.h).
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/model_config.h"
#include "server/cli/bench_kernels_measure.h"

namespace tandem::server {

struct KernelRows {
  std::vector<int> generated = {1, 8, 32, 128};
  int prompt = 512;   // of the largest chunk
  int sequences = 8;  // that attend, a row each
  int context = 8192;
};

// Whether the model has operations of the family: experts and per-layer embeddings are not for all.
bool HasFamily(const engine::ModelConfig& config, std::string_view family);

// Runs the families, each after a copy. What memory does not suffice for is left out and named.
//   errors  of the device
absl::Status RunKernelFamilies(const engine::ModelConfig& config,
                               std::span<const std::string_view> families, const KernelRows& rows,
                               KernelBench& bench);

// One family each.
absl::Status RunLinearCases(const engine::ModelConfig& config, const KernelRows& rows,
                            KernelBench& bench);
absl::Status RunGegluCases(const engine::ModelConfig& config, const KernelRows& rows,
                           KernelBench& bench);
absl::Status RunHeadCases(const engine::ModelConfig& config, const KernelRows& rows,
                          KernelBench& bench);
absl::Status RunExpertsCases(const engine::ModelConfig& config, const KernelRows& rows,
                             KernelBench& bench);
absl::Status RunAttentionCases(const engine::ModelConfig& config, const KernelRows& rows,
                               KernelBench& bench);
absl::Status RunQkvPostCases(const engine::ModelConfig& config, const KernelRows& rows,
                             KernelBench& bench);
absl::Status RunNormCases(const engine::ModelConfig& config, const KernelRows& rows,
                          KernelBench& bench);
absl::Status RunEmbedCases(const engine::ModelConfig& config, const KernelRows& rows,
                           KernelBench& bench);
absl::Status RunPleCases(const engine::ModelConfig& config, const KernelRows& rows,
                         KernelBench& bench);

// Rows of random ids, at positions from 0 on.
struct PlainRows {
  PlainRows(int count, int ids_below);

  // Points into this.
  kernels::RowsArgs Args(bool prompt) const;

  std::vector<int32_t> ids, positions;
};

}  // namespace tandem::server
