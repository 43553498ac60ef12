// A request, what a value weighs in its cuts and what it scores in its draw (kernels.md 5.9).
//
// Source    Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2,
//           3", SC 2011. The same formulas on the host: engine/philox.h, sampler.cc, logit_row.cc.
#pragma once

#include "kernels/cuda/kport.h"
#include "kernels/cuda/pick.h"
#include "kernels/cuda/pick_rank.h"

namespace tandem::kernels::K_WORLD {

K_DEVICE PickRequest LoadRequest(const PickRequest* from) {
  return {.seed = ld_nc(&from->seed),
          .position = ld_nc(&from->position),
          .row = ld_nc(&from->row),
          .temperature = ld_nc(&from->temperature),
          .top_k = ld_nc(&from->top_k),
          .top_p = ld_nc(&from->top_p),
          .min_p = ld_nc(&from->min_p),
          .choice = ld_nc(&from->choice)};
}

// The token of a request: the id of a rank, or none.
K_DEVICE void StorePick(int32_t* id, int32_t* finite, uint64_t rank) {
  st(id, rank == kNoRank ? -1 : IdOfRank(rank));
  st(finite, rank == kNoRank ? 0 : 1);
}

// The word that has the bit of `id`.
K_DEVICE uint32_t SuppressedWord(const uint32_t* suppressed, int id) {
  return suppressed != nullptr ? ld_nc(suppressed + id / 32) : 0;
}

// Whether a request draws at all, and which cuts are on.
K_DEVICE bool Draws(const PickRequest& request) { return request.temperature > 0.0f; }
K_DEVICE bool CutsTopK(const PickRequest& request) { return Draws(request) && request.top_k > 0; }
K_DEVICE bool CutsTopP(const PickRequest& request) {
  return Draws(request) && request.top_p < 1.0f;
}

// (value - max) / temperature
K_DEVICE float DepthOf(float value, float max, float temperature) {
  return div_rn(add_rn(value, -max), temperature);
}

// exp((value - max) / temperature) in units of 2^-44, rounded down.
// The same bits in both worlds. exp by range reduction to |r| <= ln2 / 2 and a Taylor series to the
// seventh power, within two units in the last place of a float.
constexpr int kMassBits = 44;
K_DEVICE uint64_t MassOf(float value, float max, float temperature) {
  constexpr float kLog2e = 0x1.715476p+0f;
  constexpr float kLn2High = 0x1.62e4p-1f;  // few bits, so that n * kLn2High is exact
  constexpr float kLn2Low = 0x1.7f7d1cp-20f;
  constexpr float kRound = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  const float depth = DepthOf(value, max, temperature);
  if (!(depth > -32.0f)) return 0;
  const float shifted = fma_rn(depth, kLog2e, kRound);
  const float n = add_rn(shifted, -kRound);
  const float r = fma_rn(-n, kLn2Low, fma_rn(-n, kLn2High, depth));
  float e = fma_rn(1.0f / 5040, r, 1.0f / 720);
  e = fma_rn(e, r, 1.0f / 120);
  e = fma_rn(e, r, 1.0f / 24);
  e = fma_rn(e, r, 1.0f / 6);
  e = fma_rn(e, r, 0.5f);
  e = fma_rn(e, r, 1.0f);
  e = fma_rn(e, r, 1.0f);
  const uint32_t exponent = f32_bits(shifted) - f32_bits(kRound) + kMassBits + 127;
  return static_cast<uint64_t>(mul_rn(e, f32_of_bits(exponent << 23)));
}

// The mass that is a share p of `total`, p < 1; never nothing.
K_DEVICE uint64_t MassOfShare(float p, uint64_t total) {
  const double share = double{p} * static_cast<double>(total);
  return share > 1.0 ? static_cast<uint64_t>(share) : 1;
}

// The value that weighs min_p of the largest one, min_p > 0.
K_DEVICE float LowestOfMinP(const PickRequest& request, float max) {
  const double min_p = request.min_p < 1.0f ? double{request.min_p} : 1.0;
  return static_cast<float>(
      add_rn_f64(double{max}, mul_rn_f64(double{request.temperature}, log_acc(min_p))));
}

// Random words of ids 4*group .. 4*group + 3.
K_DEVICE uint4 NoiseWords(const PickRequest& request, int group) {
  constexpr int kRounds = 10;
  constexpr uint32_t kMul0 = 0xD2511F53, kMul1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  constexpr uint32_t kDrawPurpose = 0;
  uint4 counter = {static_cast<uint32_t>(request.position), static_cast<uint32_t>(group),
                   kDrawPurpose, static_cast<uint32_t>(request.choice)};
  uint32_t key0 = static_cast<uint32_t>(request.seed);
  uint32_t key1 = static_cast<uint32_t>(request.seed >> 32);
  K_UNROLL
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t p0 = uint64_t{kMul0} * counter.x;
    const uint64_t p1 = uint64_t{kMul1} * counter.z;
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter.y ^ key0, static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter.w ^ key1, static_cast<uint32_t>(p0)};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

// What decides the draw: the largest score wins. Gumbel noise -log(-log(1 - v)) with v in (0, 1]
// made so that its upper tail keeps its resolution.
K_DEVICE float ScoreOf(float value, float max, float temperature, uint32_t word) {
  const float v = fma_rn(static_cast<float>(word), 0x1p-32f, 0x1p-33f);
  const float noise = -log_acc(-log1p_acc(-v));
  return add_rn(DepthOf(value, max, temperature), noise);
}

}  // namespace tandem::kernels::K_WORLD
