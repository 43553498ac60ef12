// What this machine could do at best: the yardsticks that kernels are measured against.
#pragma once

#include "kernels/cpu/cpu_backend.h"

namespace tandem::kernels {

// Bytes per second that the team reads from memory: the best of several passes over a huge-page
// buffer far larger than the last-level cache. About 0.5 s; 0 when the buffer can not be had.
double MeasureReadBandwidth(CpuBackend& backend);

// Multiply-adds per second of the whole team, from registers alone, by the instruction that linear
// uses at this level and dtype with weights of `format` (kRef: f64, the plain loop's). Best of
// several runs, about 0.2 s.
double MeasureMultiplyAddPeak(CpuBackend& backend, WeightFormat format);

}  // namespace tandem::kernels
