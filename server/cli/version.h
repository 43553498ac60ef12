// What was built, from what, by what.
#pragma once

#include <string>
#include <string_view>

namespace tandem::server {

std::string_view Version();     // "0.1.0"
std::string_view GitCommit();   // "a1b2c3d4e5f6", with "-dirty" for changed files; "unknown"
std::string_view BuildFlags();  // "g++ 12.2.0 RelWithDebInfo"

// The text of --version.
std::string VersionText();

}  // namespace tandem::server
