// The checks of `tandem doctor` on the model that the settings mean: whether its files are whole
// and what of it fits. Loads no weights.
#pragma once

#include <vector>

#include "server/cli/doctor.h"
#include "server/cli/machine.h"
#include "server/config/settings.h"

namespace tandem::server {

// Configuration, tokenizer, tensors, disk, drafter and memory, each if what comes before it is
// there.
std::vector<Finding> CheckModel(const Settings& settings, const FreeMemory& free);

}  // namespace tandem::server
