// Stored KV rows as tests look at them: their bytes, their values, and what attention makes of a
// query that meets codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/ops.h"
#include "kernels/types.h"
#include "kvcache/kv_formats.h"
#include "tests/engine/engine_rig.h"

namespace tandem::testing {

// The bytes of the K and V row of one token and head, codes and scales, as runs.
std::vector<std::span<std::byte>> KvRowRuns(const kernels::KvView& view, int head_dim,
                                            int32_t block, int head, int cell);

// The values of a stored K or V row in the model's own space.
std::vector<float> StoredRow(const kernels::KvView& view, int head_dim, int32_t block, int head,
                             int cell, bool value);

// The query, in the model's own space, that a K row of `k_format` meets in place of `q`: formats
// with a scale round it to 8 bits per rotated value (turboquant 3.2, int8 path).
std::vector<float> RoundedQuery(std::span<const float> q, kernels::KvFormat k_format);

// Operations over f32 blocks that compute what `inner` computes over blocks in other formats: a row
// is encoded and decoded again on its way into its block, and queries are rounded. The weights of V
// rows are not.
//   formats  by the view's base, which tells layers apart
// One such table at a time, since operations carry no context of their own.
kernels::Ops Simulated(const kernels::Ops& inner,
                       std::vector<std::pair<const std::byte*, kvcache::KvPair>> formats);

// "q8/turbo4" for both groups, "turbo4|bf16/q8" with a pair of their own for full layers, either
// with " protect F+L" behind it.
kvcache::KvFormats FormatsOf(const std::string& text);

// "f32" and "bf16": operands and KV alike; else bf16 operands and KV in FormatsOf's formats. With
// "int8 " or "int4 " before it, weights in that format.
void SetNumbers(RigConfig& config, const std::string& text);

// Golden variants with formats that FormatsOf reads: every format with itself, pairs of unlike
// ones, groups apart, protected layers; each at every level of `isas`.
std::vector<std::tuple<const char*, kernels::CpuIsa, const char*>> FormatSpread(
    const std::vector<kernels::CpuIsa>& isas);

// FormatsOf's text as part of a test's name: "q8_turbo4".
std::string FormatsTestName(std::string text);

}  // namespace tandem::testing
