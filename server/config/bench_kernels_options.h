// The arguments of `tandem bench kernels`: whose operations are measured, and which.
//
// Not here  the operations themselves (server/cli/bench_kernels_cases.h).
#pragma once

#include <array>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config/option_table.h"

namespace tandem::server {

// In the order in which they are measured.
constexpr std::array<std::string_view, 9> kKernelFamilies = {
    "linear", "geglu", "head", "experts", "attention", "qkv-post", "norm", "embed", "ple"};

std::vector<OptionSpec> BenchKernelsOptions();

// "head,linear", in the order of kKernelFamilies; "all": every one of them.
//   errors  kInvalidArgument with what there is, and for one that is there twice
absl::StatusOr<std::vector<std::string_view>> ParseKernelFamilies(std::string_view list);

//   given   name of each option that was given -> what it was written as: "--model-shape"
//   errors  kInvalidArgument naming the flags that contradict each other
absl::Status CheckBenchKernels(const BenchKernelsArguments& arguments,
                               const std::map<std::string, std::string>& given);

}  // namespace tandem::server
