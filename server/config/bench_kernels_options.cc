#include "server/config/bench_kernels_options.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace tandem::server {
namespace {

std::string FamilyNames() {
  std::string names;
  for (const std::string_view name : kKernelFamilies) names += std::string(name) + ", ";
  return names;
}

absl::Status CheckFamilies(std::string_view text) { return ParseKernelFamilies(text).status(); }

}  // namespace

std::vector<OptionSpec> BenchKernelsOptions() {
  std::vector<OptionSpec> options = {
      {.name = "model-shape",
       .placeholder = "SHAPE",
       .target = [](Settings& s) -> Target { return &s.bench_kernels.model_shape; },
       .choices = {"e2b", "e4b", "12b", "26b", "31b"},
       .help = "whose operations: e2b, e4b, 12b, 26b or 31b",
       .detail = "Only 26b has experts, only e2b and e4b have per-layer embeddings (ple)."},
      {.name = "model",
       .letter = 'm',
       .placeholder = "DIR",
       .target = [](Settings& s) -> Target { return &s.bench_kernels.model; },
       .unset = "none",
       .help = "those of a checkpoint; only its config.json is read"},
      {.name = "family",
       .letter = 'f',
       .placeholder = "NAME,..",
       .target = [](Settings& s) -> Target { return &s.bench_kernels.family; },
       .check = CheckFamilies,
       .help = "families of operations, such as linear,head",
       .detail =
           "linear, geglu, head, experts, attention, qkv-post, norm, embed and ple, of which a "
           "model has experts or ple or neither. Copy bandwidth is measured right before "
           "each. Weights are random; their arrays are rotated, so that a call finds none of "
           "them in a cache."},
      {.name = "repetitions",
       .letter = 'r',
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.bench_kernels.repetitions; },
       .min = 1,
       .max = 1000,
       .help = "runs of each operation; the median is shown"},
      {.name = "output",
       .letter = 'o',
       .placeholder = "FORMAT",
       .target = [](Settings& s) -> Target { return &s.bench_kernels.output; },
       .choices = {"md", "json", "csv"},
       .help = "md (Markdown), json or csv"}};
  for (OptionSpec& option : options) {
    option.verbs = Bit(Verb::kBenchKernels);
    option.is_setting = false;
  }
  return options;
}

absl::StatusOr<std::vector<std::string_view>> ParseKernelFamilies(std::string_view list) {
  if (list == "all") return std::vector(kKernelFamilies.begin(), kKernelFamilies.end());
  std::array<bool, kKernelFamilies.size()> chosen = {};
  for (bool more = true; more;) {
    const size_t comma = list.find(',');
    const std::string_view name = list.substr(0, comma);
    const auto found = std::find(kKernelFamilies.begin(), kKernelFamilies.end(), name);
    if (found == kKernelFamilies.end()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("'%s' is no family of operations; there are %sand all of them: all",
                          std::string(name), FamilyNames()));
    }
    bool& taken = chosen[found - kKernelFamilies.begin()];
    if (taken) {
      return absl::InvalidArgumentError(
          absl::StrFormat("'%s' is given twice; once is enough", std::string(name)));
    }
    taken = true;
    more = comma != std::string_view::npos;
    if (more) list.remove_prefix(comma + 1);
  }
  std::vector<std::string_view> families;
  for (size_t i = 0; i < chosen.size(); ++i) {
    if (chosen[i]) families.push_back(kKernelFamilies[i]);
  }
  return families;
}

absl::Status CheckBenchKernels(const BenchKernelsArguments& arguments,
                               const std::map<std::string, std::string>& given) {
  // The environment may hold a shape too: that is a setting, of other commands.
  const auto shape = given.find("model-shape");
  const bool both =
      !arguments.model.empty() && shape != given.end() && shape->second == "--model-shape";
  if (!both) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "--model %s and --model-shape %s contradict each other: both say whose operations to "
      "measure; drop one",
      arguments.model, arguments.model_shape));
}

}  // namespace tandem::server
