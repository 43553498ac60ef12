// The orders in which every emulated kernel test runs; results must not depend on them.
#pragma once

#include <vector>

#include "kernels/emu/stream.h"

namespace tandem::kernels {

inline std::vector<emu::Schedule> AllSchedules() {
  return {{emu::Order::kForward}, {emu::Order::kReverse}, {emu::Order::kSeeded, 7}};
}

}  // namespace tandem::kernels
