// A TOML file of settings, as text values with their places.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/config/command_line.h"

namespace tandem::server {

// A setting that is the empty string counts as not given.
//   file    names the text in messages ("tandem.toml:3:1: ...")
//   errors  kInvalidArgument with line and column for a syntax error, an unknown key (with the
//           nearest known one), a table, and a value of the wrong TOML type
absl::StatusOr<std::vector<Assignment>> ParseToml(std::string_view text, std::string_view file);

}  // namespace tandem::server
