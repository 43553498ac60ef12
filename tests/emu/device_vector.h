// Arrays that the kernels under test read and write, where the test can look at them too.
#pragma once

#include <vector>

namespace tandem::kernels {

template <typename T>
using DeviceVector = std::vector<T>;

}  // namespace tandem::kernels
