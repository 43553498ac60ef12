// The heap of a test program in memory that host and device reach alike.
//
// Programs that link managed_heap.cc take their std::vectors and all other new objects from one
// array of managed memory once UseManagedHeap has been called. So tests that hand arrays to
// emulated kernels hand the same arrays to a device.
#pragma once

#include <cstddef>
#include <string>

namespace tandem::kernels {

// Reserves `bytes`, of which pages are backed when they are touched. Returns what keeps the device
// from it, or nothing. What was allocated before stays where it is.
std::string UseManagedHeap(size_t bytes);

}  // namespace tandem::kernels
