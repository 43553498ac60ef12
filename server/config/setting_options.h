// The settings: what flags, environment and the TOML file can all say, one row each, by group.
//
// Not here  arguments of one command (argument_options.h), lookups (option_table.h).
#pragma once

#include <vector>

#include "server/config/option_table.h"

namespace tandem::server {

// `tandem config` takes all of them.
std::vector<OptionSpec> SettingOptions();

}  // namespace tandem::server
