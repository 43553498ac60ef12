// Top-k and top-p: where a row ends whose ids are taken in falling order until their weights reach
// a target.
//
//   top-k  every id weighs 1, the target is k
//   top-p  an id weighs exp((z - max z) / temperature) in units of 2^-44 (MassOf); the target is
//          p times the weight of what top-k left. The id that reaches it is kept
//
// Both search the key (pick_rank.h) at which the target is reached, 11, 11 and 10 bits at a time:
// a pass adds the weights of the ids that begin with the bits known so far to a bin by the next
// bits; the request's last block finds the bin in which the target lies. In the last level all ids
// of a bin have one key and one weight, which tells how many of them are still needed; where some
// are not, that block looks for the last one that is, by id.
//
// Shapes    as pick.cu; bins [count, 2048] u64.
// Launch    grid = count * ceil(vocab / 4096), block = 256; six passes, 0..2 top-k, 3..5 top-p.
// Order     integers, in any order. 2^19 weights of at most 2^44 do not overflow.
// Traffic   pick.cu. Looking for an id reads up to 4*vocab B more; a rare case.
// Truth     a sort in tests/emu/pick_test.cc; engine::Sample.
#include "kernels/cuda/pick_passes.h"

namespace tandem::kernels::K_WORLD {

constexpr int kBinsPerThread = kCutBins / kPickThreads;

// One pass of one of the searches.
struct CutLevel {
  bool top_p;
  int level;

  K_DEVICE int shift() const { return level == 0 ? 21 : level == 1 ? 10 : 0; }
  K_DEVICE int bits() const { return level == 2 ? 10 : 11; }
  K_DEVICE uint32_t BinOf(uint32_t key) const { return key >> shift() & ((1u << bits()) - 1); }
  // Whether a key begins with the bits found so far.
  K_DEVICE bool Continues(uint32_t key, uint32_t prefix) const {
    return level == 0 || key >> (shift() + bits()) == prefix;
  }
};

// What the passes of a request have in common.
struct CutScale {
  float max;
  float temperature;
};

K_DEVICE uint64_t WeightOfKey(CutLevel at, CutScale scale, uint32_t key) {
  return at.top_p ? MassOf(ValueOfKey(key), scale.max, scale.temperature) : 1;
}

// The `nth` lowest id, from 1 on, whose key is `key`; the row has as many.
K_DEVICE int FindId(const PickArgs& args, const float* row, uint32_t key, uint64_t nth,
                    uint64_t* warps, int* found) {
  for (int first = 0; first < args.vocab; first += kPickStep) {
    const int id = first + static_cast<int>(threadIdx.x) * kQuad;
    const uint32_t word = id < args.vocab ? SuppressedWord(args.suppressed, id) : 0;
    const Quad values = LoadQuad(args, row, id, word);
    uint64_t mine = 0;
    K_UNROLL
    for (int i = 0; i < kQuad; ++i) mine += KeyOf(values[i]) == key ? 1 : 0;
    const Sums sums = BlockSums(mine, warps);
    uint64_t at = sums.before;
    K_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      if (KeyOf(values[i]) == key && ++at == nth) *found = id + i;
    }
    if (sums.total >= nth) break;  // for all threads alike
    nth -= sums.total;
  }
  __syncthreads();
  return *found;
}

// Adds the weights of the tile's ids to the request's bins.
K_DEVICE void FillBins(const PickPasses& passes, const PickPlace& place, CutLevel at,
                       CutScale scale, const PickCut& cut, const float* row,
                       const uint32_t* suppressed, uint64_t* tile_bins) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int step = 0; step < kPickTile; step += kPickStep) {
    const int offset = step + thread * kQuad;
    const Quad values =
        LoadQuad(passes.args, row, place.first_id + offset, suppressed[offset / 32]);
    K_UNROLL
    for (int i = 0; i < kQuad; ++i) {
      const uint32_t key = KeyOf(values[i]);
      if (key <= cut.key || !at.Continues(key, cut.prefix)) continue;
      const uint64_t weight = WeightOfKey(at, scale, key);
      if (weight != 0) atomic_add_u64(tile_bins + at.BinOf(key), weight);
    }
  }
  __syncthreads();
  uint64_t* const bins = passes.bins + int64_t{place.request} * kCutBins;
  for (int i = thread; i < kCutBins; i += kPickThreads) {
    if (tile_bins[i] != 0) atomic_add_u64(bins + i, tile_bins[i]);
  }
}

// Takes the search one level on from the request's bins, and clears them. `cut`, shared, is changed
// by one thread; a barrier is the caller's.
K_DEVICE void EndLevel(CutLevel at, CutScale scale, const PickRequest& request, uint64_t* bins,
                       PickCut* cut, uint64_t* warps) {
  const PickCut old = *cut;
  // Thread 0 has the highest bins. What top-k left of the ids with its last key weighs here, since
  // only higher keys were added.
  const int first = kCutBins - kBinsPerThread * (static_cast<int>(threadIdx.x) + 1);
  const bool own_key = old.ties > 0 && at.Continues(old.key, old.prefix);
  uint64_t weights[kBinsPerThread], sum = 0;
  K_UNROLL
  for (int i = 0; i < kBinsPerThread; ++i) {
    const int bin = first + kBinsPerThread - 1 - i;  // falling
    weights[i] = ld(bins + bin);
    st(bins + bin, uint64_t{0});
    if (own_key && static_cast<int>(at.BinOf(old.key)) == bin) {
      weights[i] += old.ties * WeightOfKey(at, scale, old.key);
    }
    sum += weights[i];
  }
  const Sums sums = BlockSums(sum, warps);  // a barrier between reading and changing `cut`
  uint64_t target = old.target, above = old.above;
  if (at.level == 0) {
    target =
        at.top_p ? MassOfShare(request.top_p, sums.total) : static_cast<uint64_t>(request.top_k);
    above = 0;
  }
  // One thread has the bin; none where top-k asks for more ids than there are, all of which stay.
  uint64_t reached = above + sums.before;
  if (!(reached < target && target <= reached + sum)) return;
  K_UNROLL
  for (int i = 0; i < kBinsPerThread; ++i) {
    if (reached < target && target <= reached + weights[i]) {
      const uint32_t bin = static_cast<uint32_t>(first + kBinsPerThread - 1 - i);
      const uint32_t prefix = (at.level == 0 ? 0 : old.prefix << at.bits()) | bin;
      cut->above = reached;
      cut->target = target;
      cut->prefix = prefix;
      cut->searching = at.level < kCutLevels - 1 ? 1 : 0;
      if (at.level == kCutLevels - 1) {
        const uint64_t each = WeightOfKey(at, scale, prefix);
        const uint64_t needed = (target - reached + each - 1) / each;
        const bool more = needed * each < weights[i];
        cut->key = prefix;
        cut->ties = static_cast<uint32_t>(needed);
        cut->partial = more || (prefix == old.key && old.partial != 0) ? 1 : 0;
        cut->last_id = kLastId;
      }
    }
    reached += weights[i];
  }
}

__global__ void __launch_bounds__(kPickThreads) PickCutKernel(PickPasses passes, int pass) {
  K_SHARED(uint64_t, tile_bins, kCutBins);
  K_SHARED(uint64_t, warps, kPickWarps);
  K_SHARED(uint32_t, suppressed, kSuppressedWords);
  K_SHARED(PickRequest, shared_request, 1);
  K_SHARED(PickCut, cut, 1);
  K_SHARED(int, word, 1);
  const PickArgs& args = passes.args;
  const PickPlace place = PlaceOfBlock(passes);
  const CutLevel at = {.top_p = pass >= kCutLevels, .level = pass % kCutLevels};
  const int thread = static_cast<int>(threadIdx.x);
  LoadSuppressed(args, place.first_id, suppressed);
  for (int i = thread; i < kCutBins; i += kPickThreads) tile_bins[i] = 0;
  if (thread == 0) shared_request[0] = LoadRequest(args.requests + place.request);
  if (thread == kWarp) cut[0] = LoadCut(passes.cuts + place.request);
  const uint64_t best = BestOfRow(passes, place.request, warps);  // a barrier for the above
  const PickRequest request = shared_request[0];
  const bool wanted = at.top_p ? CutsTopP(request) : CutsTopK(request);
  if (!wanted || !CanPick(best) || (at.level > 0 && cut[0].searching == 0)) return;

  const CutScale scale = {.max = ValueOfRank(best), .temperature = request.temperature};
  const float* const row = args.logits + request.row * args.stride;
  FillBins(passes, place, at, scale, cut[0], row, suppressed, tile_bins);
  if (!IsLastBlock(passes, place.request, &word[0])) return;
  EndLevel(at, scale, request, passes.bins + int64_t{place.request} * kCutBins, &cut[0], warps);
  __syncthreads();
  const bool final = at.level == kCutLevels - 1 && (at.top_p || !CutsTopP(request));
  if (final && cut[0].partial != 0) {
    const int id = FindId(args, row, cut[0].key, cut[0].ties, warps, &word[0]);
    if (thread == 0) cut[0].last_id = id;
  }
  if (thread == 0) StoreCut(passes.cuts + place.request, cut[0]);
}

void LaunchPickCuts(const PickPasses& passes, Stream stream) {
  for (int pass = 0; pass < 2 * kCutLevels; ++pass) {
    launch(PickCutKernel, passes.args.count * passes.tiles, kPickThreads, 0, stream, passes, pass);
  }
}

}  // namespace tandem::kernels::K_WORLD
