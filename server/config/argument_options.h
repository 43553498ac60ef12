// The arguments of single commands, one row each: what neither environment nor file can say.
//
// Not here  those of `bench model --compare`, `bench accept` (bench_model_options.h) and `bench
// serve` (bench_serve_options.h).
#pragma once

#include <vector>

#include "server/config/option_table.h"

namespace tandem::server {

std::vector<OptionSpec> ArgumentOptions();

}  // namespace tandem::server
