// Arrays that kernels under test read and write, where the test can look at them too.
//
// On a device the whole heap is such memory (managed_heap.h); what lies on the stack is not.
#pragma once

#include <vector>

namespace tandem::kernels {

template <typename T>
using DeviceVector = std::vector<T>;

template <typename T>
DeviceVector<T> OnDevice(const std::vector<T>& x) {
  return DeviceVector<T>(x.begin(), x.end());
}

}  // namespace tandem::kernels
