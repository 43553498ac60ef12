// kernels/cpu/rotate.inc on its own, at each vector level.
//
// Included by instruction-set files: raw pointers only.
#pragma once

namespace tandem::kernels {

struct RotateLevel {
  const char* name;
  void (*rotate)(const float* x, int dim, float* y);
  void (*unrotate)(float* x, int dim);
};

extern const RotateLevel kRotateAvx2;
extern const RotateLevel kRotateAvx512;

}  // namespace tandem::kernels
