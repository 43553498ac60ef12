// Products with weights of codes: their numbers, and what their instruction-set files share.
//
// Numbers   An activation row is rounded to 8 bits, one scale for every group of 32 inputs, and
//           each output is one f32 chain over ascending groups:
//             sx = amax / 127;  q_k = x_k * (127 / amax) to nearest even
//             y  = fma(sw * sx, sum_k code_k q_k, y), from 0
//           The sum of a group is exact in int32, so the bits are the same at every instruction-set
//           level and those of LinearReference with Operands::kInt8. A group with amax < 2^-100
//           counts as zeros; one with a NaN or an infinity makes every output of the row NaN.
// Why       Bytes multiply at four times the rate of f32 and twice that of bf16, which prompts
//           feel. Against activations that stay f32 this adds 0.6 % of noise (root mean square of a
//           product of normal values), as much as int8 weights bring along and a tenth of what
//           int4 weights do. Source: kernels.md 9.3; one segment in place of its 8.
// Panel     [groups] of R rows: q [R][32] int8, sx [R] f32, sum of q [R] int32.
// Codes     code_layout.h. Int4 are met as code + 8: dot = sum (code + 8) q - 8 sum q.
//
// Included by instruction-set files: everything here is a declaration or plain data.
#pragma once

#include "kernels/cpu/linear_kernel.h"

namespace tandem::kernels {

constexpr int kCodeUnitInputs = 64;
constexpr int kCodeUnitGroups = 2;
constexpr int kCodeGroup = 32;

// Of one row's unit, and of one row's group, in a panel.
constexpr size_t kCodeGroupPanelBytes = kCodeGroup + 4 + 4;
constexpr size_t kCodePanelBytes = kCodeUnitGroups * kCodeGroupPanelBytes;

// Of one tile's group.
constexpr size_t kInt8GroupBytes = 512;
constexpr size_t kInt4GroupBytes = 256;

constexpr float kLeastAmax = 0x1p-100f;
constexpr int kInfinityBits = 0x7f800000;

}  // namespace tandem::kernels
