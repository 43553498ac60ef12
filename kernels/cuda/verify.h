// How far the tokens that were drawn agree with the ids that were fed (mtp.md 2.2, 2.4 M).
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// Samples of one segment that are taken in order, each while the one before drew what the next row
// was fed: a draft and the row before it. Any other sample is a run of one.
struct alignas(16) VerifyRun {
  int32_t first_sample = 0;  // its samples lie behind each other in `drawn`
  int32_t samples = 1;       // 1 + length of the draft
  int32_t first_row = 0;     // of `fed`: what sample 0 was drawn from; sample j from row + j
  int32_t first_hidden = 0;  // likewise, of the hidden states that are kept
};

// Draws behind the last one taken mean nothing; neither does a draft's K/V from there on.
struct VerifyArgs {
  const int32_t* drawn = nullptr;   // [samples] what Pick gave, as is
  const int32_t* finite = nullptr;  // [samples]
  const int32_t* fed = nullptr;     // [rows] the ids of the step
  const VerifyRun* runs = nullptr;  // [count], device memory
  int count = 0;
  // [count] each. With a = accepted, the sample taken last is first_sample + a.
  int32_t* accepted = nullptr;     // ids of the draft that hold, 0 .. samples - 1
  int32_t* token = nullptr;        // drawn[first_sample + a], the newest; -1 where not finite
  int32_t* last_sample = nullptr;  // first_sample + a
  int32_t* hidden_row = nullptr;   // first_hidden + a: the state that a draft behind `token` begins
  int32_t* token_finite = nullptr;  // finite[first_sample + a]
};

void Verify(const VerifyArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
