// The arguments of `tandem bench accept`, those of `tandem bench model --compare`, and which of
// them go together.
//
// Not here  the options they share with other commands (option_table.h).
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config/option_table.h"

namespace tandem::server {

std::vector<OptionSpec> BenchCompareOptions();
std::vector<OptionSpec> BenchAcceptOptions();

// `settings` with one more, written "spec-mode=off". Only what may differ between two runs of one
// loaded engine is possible: spec-mode and spec-max-draft.
//   errors  kInvalidArgument naming what is possible
absl::StatusOr<Settings> WithSetting(const Settings& settings, std::string_view key_value);

// "0.8,0.6,0.4": chances, each 0 to 1, one for each place of a draft.
//   errors  kInvalidArgument with the value and the range
absl::StatusOr<std::vector<double>> ParseChances(std::string_view text);

//   given   name of each option that was given -> what it was written as: "--compare"
//   errors  kInvalidArgument naming the flags that contradict each other
absl::Status CheckBenchModel(const Settings& settings,
                             const std::map<std::string, std::string>& given);

}  // namespace tandem::server
