#include "server/cli/bench_kernels_cases.h"

#include "server/config/bench_kernels_options.h"

namespace tandem::server {
namespace {

struct Family {
  std::string_view name;
  absl::Status (*run)(const engine::ModelConfig&, const KernelRows&, KernelBench&);
};

constexpr Family kFamilies[] = {
    {"linear", RunLinearCases},   {"geglu", RunGegluCases},         {"head", RunHeadCases},
    {"experts", RunExpertsCases}, {"attention", RunAttentionCases}, {"qkv-post", RunQkvPostCases},
    {"norm", RunNormCases},       {"embed", RunEmbedCases},         {"ple", RunPleCases},
};
static_assert(std::size(kFamilies) == kKernelFamilies.size());

}  // namespace

bool HasFamily(const engine::ModelConfig& config, std::string_view family) {
  if (family == "experts") return config.experts > 0;
  if (family == "ple") return config.ple_width > 0;
  return true;
}

absl::Status RunKernelFamilies(const engine::ModelConfig& config,
                               std::span<const std::string_view> families, const KernelRows& rows,
                               KernelBench& bench) {
  for (const std::string_view name : families) {
    for (const Family& family : kFamilies) {
      if (family.name != name || !HasFamily(config, name)) continue;
      bench.StartFamily(name);
      if (absl::Status s = family.run(config, rows, bench); !s.ok()) return s;
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::server
