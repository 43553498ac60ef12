// The device that engine tests run on: an emulated one, or where a program was built for it a GPU.
#pragma once

#include <memory>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace tandem::testing {

// Ends the program when there is none.
std::unique_ptr<kernels::DeviceBackend> MakeTestDevice(kernels::CpuBackend& host);

}  // namespace tandem::testing
