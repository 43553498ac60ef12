// What `tandem doctor` finds, and how it is shown.
//
// Not here  the checks themselves (doctor_machine.h, doctor_model.h).
#pragma once

#include <string>
#include <vector>

#include "server/cli/terminal.h"

namespace tandem::server {

struct Finding {
  enum class Level { kPass, kWarn, kFail };
  Level level = Level::kPass;
  std::string name;    // "huge pages"
  std::string text;    // what is so
  std::string advice;  // what to do about it; empty with kPass
};

// One line per finding with its advice below, and a last line that counts them.
std::string FindingsText(const std::vector<Finding>& findings, const Terminal& terminal);
// One JSON object.
std::string FindingsJson(const std::vector<Finding>& findings);

// Whether any is kFail.
bool AnyFailed(const std::vector<Finding>& findings);

}  // namespace tandem::server
