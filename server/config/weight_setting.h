// The format of weights that --weights asks for.
//
// Not here  what a format is (kernels/weight_codes.h); which matrices it does not apply to
// (engine/weights.h).
#pragma once

#include "kernels/types.h"
#include "server/config/settings.h"

namespace tandem::server {

// Of settings whose choices were checked.
kernels::WeightFormat WeightsOf(const Settings& settings);

}  // namespace tandem::server
