// Models so small that thousands of generations take seconds, with the head sizes of real ones.
#pragma once

#include <cstdint>

#include "tests/engine/engine_rig.h"

namespace tandem::testing {

struct TinyShape {
  int vocab = 16;
  int hidden = 32;
  int layers = 2;       // sliding ones, the last one full
  int shared = 0;       // of these, how many at the end share KV
  int full_head = 512;  // head size of full layers; sliding ones have 256
  int window = 24;      // of the sliding layers
  float spread = 1.0f;  // of the logits
};

// Dummy weights by `seed`, with a final norm of both signs: with a tied head and norm weights of 1
// every token would predict itself.
EngineRig TinyRig(const TinyShape& shape, uint64_t seed, RigConfig config);

}  // namespace tandem::testing
