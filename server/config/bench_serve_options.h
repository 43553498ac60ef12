// The arguments of `tandem bench serve`, and which of them go together.
//
// Not here  the options it shares with other commands (option_table.h).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/config/option_table.h"

namespace tandem::server {

std::vector<OptionSpec> BenchServeOptions();

//   given   name of each option that was given -> what it was written as: "--rate"
//   errors  kInvalidArgument naming the flags that contradict each other
absl::Status CheckBenchServe(const BenchServeArguments& arguments,
                             const std::map<std::string, std::string>& given);

}  // namespace tandem::server
