// How far the rounding of stored keys moves the logits of attention, predicted from weights alone.
//
//   L     = |w_q| |w_k| / sqrt(d)    the size of a layer's logits: queries and keys leave their
//                                    norms with the lengths of the norms' weights
//   noise = L * sqrt(D)              standard deviation of the error of one logit; D is the
//                                    format's expected squared error per squared length
//
// Source    turboquant 4.1; D of Gaussian coordinates, 1.4 and 1.5. A prediction for activations
//           that have no preferred direction: it ranks layers and formats, no more.
#pragma once

#include <vector>

#include "engine/model_config.h"
#include "engine/weights.h"
#include "kernels/types.h"

namespace tandem::engine {

constexpr double kLogitNoiseLimit = 0.25;  // above it a key format is suspect (turboquant 4.1)

// L of every layer, [layers]. Reads q_norm and k_norm only; a layer that shares KV meets its
// owner's keys.
std::vector<double> LogitSizes(const ModelConfig& config, const Weights& weights);

// sqrt(D): the noise of a layer whose logits have size 1. 0 for formats that are not rotated.
double KeyNoise(kernels::KvFormat k_format);

}  // namespace tandem::engine
