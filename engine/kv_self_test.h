// Whether a backend stores KV rows as this format is defined, tried on rows whose bytes are known.
//
// What goes in are heads of ones: their norm is exactly 1, so that what is stored as K is the
// norm's weight, here the golden vector of turboquant 2.6, and as V the ones themselves.
//
// Not here  all else about rows (tests/kernels).
#pragma once

#include <span>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "kvcache/layout.h"

namespace tandem::engine {

// Tries each format with a scale that the layers have, at their head sizes of 256 and 512.
//   errors  kInternal with the format, the head size, the bytes found and those expected
absl::Status TryKvEncoder(std::span<const kvcache::LayerKv> layers, const kernels::Ops& ops);

}  // namespace tandem::engine
