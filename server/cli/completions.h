// Shell completion scripts, made from the option table.
//
// They complete commands, flags, the choices of an option, directories and files. An option takes a
// directory or a file when its placeholder is DIR or FILE.
#pragma once

#include <string>

namespace tandem::server {

std::string BashCompletions();  // source <(tandem completions bash)
std::string ZshCompletions();   // source <(tandem completions zsh), or a file _tandem in fpath
std::string FishCompletions();  // tandem completions fish | source

}  // namespace tandem::server
