// The checks of `tandem doctor` on the model that the settings mean: whether its files are whole
// and what of it fits. Loads no weights.
#pragma once

#include <vector>

#include "server/cli/backends.h"
#include "server/cli/doctor.h"
#include "server/config/settings.h"

namespace tandem::server {

// Configuration, tokenizer, tensors, disk, drafter, kernels and memory, each if what comes before
// it is there.
//   backends  null: they can not be made, and another finding says why
std::vector<Finding> CheckModel(const Settings& settings, const Backends* backends);

}  // namespace tandem::server
