// The settings in force: flags before environment before TOML file before defaults.
//
// In        the words of the command line, the environment, a way to read files.
// Out       Settings, checked one by one and against each other; where each one was set.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config/command_line.h"
#include "server/config/settings.h"

namespace tandem::server {

using Environment = std::map<std::string, std::string>;
using ReadFile = std::function<absl::StatusOr<std::string>(const std::string& path)>;

struct Invocation {
  CommandLine::Action action = CommandLine::Action::kRun;
  std::optional<Verb> verb;
  std::string family;  // as in CommandLine
  Settings settings;
  std::map<std::string, std::string> given;  // setting name -> where its value comes from
  std::vector<std::string> warnings;         // one line each; the program goes on
};

// A setting that is empty in the environment counts as not given. Values that a stronger source
// overrides are checked all the same.
//   errors  kInvalidArgument, naming the source, the value and what is allowed; for settings that
//           contradict each other, naming both. kNotFound for a --config file that is not there.
absl::StatusOr<Invocation> Resolve(std::span<const std::string> words,
                                   const Environment& environment, const ReadFile& read_file);

}  // namespace tandem::server
