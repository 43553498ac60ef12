// What the option table looks like to people: --help, the documentation page, a TOML file.
#pragma once

#include <string>
#include <string_view>

#include "server/config/option_table.h"
#include "server/config/resolve.h"

namespace tandem::server {

// The commands, on less than one screen.
std::string ProgramHelp();
// The verbs whose first word is `family`.
std::string FamilyHelp(std::string_view family);
// The common options of a verb: at most 50 lines of 100 columns.
std::string VerbHelp(Verb verb);
// Every option of a verb with its details; each group is at most 24 lines of 100 columns.
std::string VerbHelpAll(Verb verb);

// All commands and options in Markdown: server/config/OPTIONS.md.
std::string OptionsPage();

// The settings in force as a TOML file, each with where it was set; those at their default are
// commented out.
std::string SettingsToml(const Invocation& invocation);

}  // namespace tandem::server
