// Which experts each row takes, and with which weights.
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// Per row: the top_k largest logits (ties to the lower expert), a softmax over them times
// expert_scale (gemma4.md 2.7: renormalised, the softmax over all experts cancels to this).
struct RouteArgs {
  const float* logits = nullptr;  // [rows, experts]
  int rows = 0;
  int experts = 0;
  int top_k = 0;
  const float* expert_scale = nullptr;  // [experts]
  int32_t* ids = nullptr;               // [rows, top_k], ascending; valid whatever the logits are
  float* weights = nullptr;             // [rows, top_k]; NaN where a chosen logit is
};

constexpr int kMaxExperts = 1024;
constexpr int kMaxChosenExperts = 32;

// Whether a kernel was built for this many: 1 <= top_k <= experts, and the maxima above. Asked when
// a model is loaded.
bool RouteSupports(int experts, int top_k);

void Route(const RouteArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
