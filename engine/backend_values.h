// Values between the host and a backend's memory.
#pragma once

#include <vector>

#include "kernels/ops.h"

namespace tandem::engine {

// `count` values of the backend, f32 or operands, as f32.
inline void FetchFloats(const kernels::Ops& ops, const void* from, size_t count, bool operands,
                        std::vector<float>& values) {
  const size_t value_bytes = operands ? ops.operand_bytes : sizeof(float);
  const void* const data = ops.fetch(ops.backend, const_cast<void*>(from), count * value_bytes);
  values.resize(count);
  for (size_t i = 0; i < count; ++i) {
    values[i] = value_bytes == sizeof(kernels::Bf16)
                    ? ToFloat(static_cast<const kernels::Bf16*>(data)[i])
                    : static_cast<const float*>(data)[i];
  }
}

inline void WriteFloats(const kernels::Ops& ops, const std::vector<float>& values, float* to) {
  if (!values.empty()) ops.write(ops.backend, to, values.data(), values.size() * sizeof(float));
}

}  // namespace tandem::engine
