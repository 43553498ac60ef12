// Which experts each row takes: the best top_k logits and a softmax over them.
//
//   chosen    e of which fewer than top_k experts come before it: a larger logit, or an equal one
//             and a lower id. Nothing compares to a NaN, which therefore is chosen; where more than
//             top_k are, the lowest ids are taken.
//   weight_k  exp(l_k - max) / sum_j exp(l_j - max) * expert_scale_k, over the chosen
//
// Shapes    logits [rows, experts] f32; ids, weights [rows, top_k]; experts <= 1024, top_k <= 32.
// Launch    grid = rows, block = 128. The row lies in shared memory; a thread counts what comes
//           before its expert, ballots give the chosen their places in ascending id, then a lane
//           per chosen expert makes the weights.
// Order     of the sum: ascending id.
// Traffic   reads 4*rows*experts B of logits and 4*rows*top_k B of scales, writes 8*rows*top_k B.
// Roofline  latency bound: a row of 128 experts is 128 comparisons per thread.
// Truth     RouteReference (kernels/reference/row_ops_ref.h); tests/emu/route_test.cc.
#include "kernels/cuda/route.h"

namespace tandem::kernels::K_WORLD {

constexpr int kRouteThreads = 128;
constexpr int kRouteWarps = kRouteThreads / kWarp;
static_assert(kMaxChosenExperts <= kWarp, "a lane per chosen expert");

__global__ void __launch_bounds__(kRouteThreads) RouteKernel(RouteArgs a) {
  K_SHARED(float, row, kMaxExperts);
  K_SHARED(int32_t, chosen, kMaxChosenExperts);
  K_SHARED(int32_t, chosen_of_warp, kRouteWarps);
  const int thread = static_cast<int>(threadIdx.x);
  const float* const logits = a.logits + int64_t{blockIdx.x} * a.experts;
  for (int e = thread; e < a.experts; e += kRouteThreads) row[e] = ld_nc(logits + e);
  __syncthreads();

  int place = 0;  // of the first expert of this pass among the chosen
  for (int first = 0; first < a.experts; first += kRouteThreads) {
    const int e = first + thread;
    bool is_chosen = false;
    if (e < a.experts) {
      const float mine = row[e];
      int before = 0;
      for (int other = 0; other < a.experts; ++other) {
        const float theirs = row[other];
        before += theirs > mine || (theirs == mine && other < e) ? 1 : 0;
      }
      is_chosen = before < a.top_k;
    }
    const uint32_t votes = __ballot_sync(kFullMask, is_chosen);
    if (lane_id() == 0) chosen_of_warp[warp_id()] = popc(votes);
    __syncthreads();
    int mine = place + popc(votes & ((1u << lane_id()) - 1));
    for (int w = 0; w < kRouteWarps; ++w) {
      if (w < warp_id()) mine += chosen_of_warp[w];
      place += chosen_of_warp[w];
    }
    if (is_chosen && mine < a.top_k) chosen[mine] = e;
    __syncthreads();  // `chosen` is whole after the last pass; the counts may be written again
  }

  if (warp_id() == 0) {
    const bool valid = lane_id() < a.top_k;
    const float lowest = f32_of_bits(0xff800000u);
    const int e = valid ? chosen[lane_id()] : 0;
    const float logit = valid ? row[e] : lowest;
    const float above = add_rn(logit, -warp_max(logit));
    const float power = ex2(mul_rn(above, 1.44269504f));
    float sum = 0.0f;
    for (int k = 0; k < a.top_k; ++k) sum = add_rn(sum, __shfl_sync(kFullMask, power, k));
    if (valid) {
      const int64_t to = int64_t{blockIdx.x} * a.top_k + lane_id();
      st(a.ids + to, int32_t{e});
      st(a.weights + to, mul_rn(div_rn(power, sum), ld_nc(a.expert_scale + e)));
    }
  }
}

bool RouteSupports(int experts, int top_k) {
  return top_k > 0 && top_k <= experts && top_k <= kMaxChosenExperts && experts <= kMaxExperts;
}

void Route(const RouteArgs& args, Stream stream) {
  if (args.rows == 0) return;
  launch(RouteKernel, args.rows, kRouteThreads, 0, stream, args);
}

}  // namespace tandem::kernels::K_WORLD
