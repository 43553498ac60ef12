// Draws that a backend can make itself, so that no row of logits has to come to the host.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sampling.h"
#include "kernels/ops.h"

namespace tandem::engine {

// Whether the backend draws such a token: one that needs nothing but the logits.
bool PickedByBackend(const kernels::Ops& ops, const SampleRequest& request);

// The request for a row of the logits at hand.
kernels::PickRequest PickFor(const SampleRequest& request, int row);

// Ids as bits, as PickArgs has them; ids outside the vocabulary are ignored.
std::vector<uint32_t> BitsOf(std::span<const int32_t> ids, int vocab);

}  // namespace tandem::engine
