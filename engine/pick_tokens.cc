#include "engine/pick_tokens.h"

namespace tandem::engine {

bool PickedByBackend(const kernels::Ops& ops, const SampleRequest& request) {
  return ops.pick != nullptr && request.params != nullptr && !request.logprobs.enabled &&
         !EditsLogits(request);
}

kernels::PickRequest PickFor(const SampleRequest& request, int row) {
  const SamplingParams& params = *request.params;
  return {.row = row,
          .temperature = params.temperature,
          .top_k = params.top_k,
          .top_p = params.top_p,
          .min_p = params.min_p,
          .seed = params.seed,
          .choice = request.choice,
          .position = request.position};
}

std::vector<uint32_t> BitsOf(std::span<const int32_t> ids, int vocab) {
  std::vector<uint32_t> bits((vocab + 31) / 32, 0);
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab) bits[id / 32] |= uint32_t{1} << (id % 32);
  }
  return bits;
}

}  // namespace tandem::engine
