// Which clusters of tokens a row of the drafter's head looks at (mtp.md 1.8).
#pragma once

#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

// The `chosen` clusters with the largest scores, ties to the lower one, as engine::ChooseClusters.
struct ChooseClustersArgs {
  const float* scores = nullptr;  // [rows, stride], `clusters` values used
  int64_t stride = 0;
  int rows = 0;
  int clusters = 0;  // ChooseClustersSupports
  int chosen = 0;
  int32_t* ids = nullptr;  // [rows, chosen] rising; 0, 1, 2, ... where not finite
  // [rows] 0: NaN or +infinity among the scores, or fewer than `chosen` above -infinity; else 1.
  int32_t* finite = nullptr;
};

// Up to 4096 clusters, 1 <= chosen <= clusters. Asked when a model is loaded.
bool ChooseClustersSupports(int clusters, int chosen);

void ChooseClusters(const ChooseClustersArgs& args, Stream stream);

}  // namespace tandem::kernels::K_WORLD
