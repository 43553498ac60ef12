// The words of a command line, sorted into verb and flags.
//
// Out       the flags as text, in a form that resolve.h merges with the other sources.
// Not here  the values' types and ranges (option_value.h); the environment; --help's text.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config/option_table.h"

namespace tandem::server {

// One option given a value by one source.
struct Assignment {
  const OptionSpec* option = nullptr;
  std::vector<std::string> values;  // several for a list, or when given repeatedly
  std::string where;                // as in StoreValue
};

struct CommandLine {
  enum class Action { kRun, kHelp, kHelpAll, kVersion };
  Action action = Action::kRun;
  std::optional<Verb> verb;  // absent with kVersion, and with kHelp of more than one verb
  std::string family;        // with kHelp of the verbs that begin with this word, such as "bench"
  std::vector<Assignment> flags;
};

// `words` without the program's name.
//   errors  kInvalidArgument for no verb, an unknown verb, flag or argument (with the nearest known
//           one), a flag of another verb, and a missing value
absl::StatusOr<CommandLine> ParseCommandLine(std::span<const std::string> words);

}  // namespace tandem::server
