// The arguments of `tandem bench kv` and `tandem bench kv-quality`: which KV formats are held
// against which.
//
// Not here  what a format is (kvcache/kv_formats.h), the options they share with other commands
// (option_table.h).
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kvcache/kv_formats.h"
#include "server/config/option_table.h"

namespace tandem::server {

std::vector<OptionSpec> BenchKvOptions();
std::vector<OptionSpec> BenchKvQualityOptions();

// Formats by the name under which they are reported.
struct KvChoice {
  std::string name;  // "turbo4", "q8/turbo4", "compact"
  kvcache::KvFormats formats;
};

// "turbo4" or "q8/turbo4": both groups alike, no layer protected. "compact": the preset, with the
// layers that it protects.
//   errors  kInvalidArgument with what there is
absl::StatusOr<KvChoice> ParseKvChoice(std::string_view text);

// "q8,turbo4,q8/turbo4", each once.
//   errors  also kInvalidArgument for one that is there twice
absl::StatusOr<std::vector<KvChoice>> ParseKvChoices(std::string_view list);

//   given   name of each option that was given -> what it was written as: "--model-shape"
//   errors  kInvalidArgument naming the flags that contradict each other
absl::Status CheckBenchKv(const BenchKvArguments& arguments,
                          const std::map<std::string, std::string>& given);

}  // namespace tandem::server
