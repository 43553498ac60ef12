// Drafts whose acceptance is decided by a coin: how fast a model would be at a known acceptance.
//
// The guesses of an assistant with random weights never hold, so that its real acceptance says
// nothing. Here the assistant runs its whole chain, and then its ids are replaced: by what the
// target is known to say next, from an answer that was recorded without drafts, up to the first
// guess for which a coin falls tails; that one becomes an id that is wrong. Everything else is as
// ever: the target verifies the rows, rejected ones are rolled back, the text stays its own.
//
// Not here  what is measured with it (bench_compare.h).
#pragma once

#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/drafter.h"

namespace tandem::server {

struct AssumedAcceptance {
  std::vector<double> chances;  // [i] that guess i holds when all before it did, 0..1; the last one
                                // counts for the guesses behind it too. Empty: nothing is replaced
  int vocab = 0;
  uint64_t coin_seed = 0;
  // What the target answers, by the seed of the request (SamplingParams::seed), which must be its
  // own. Of others nothing is replaced.
  std::unordered_map<uint64_t, std::vector<int32_t>> answers;
};

// Whether the coin falls heads for guess `i` (from 0) behind the token at `position`: a function of
// its arguments alone.
bool CoinHolds(const AssumedAcceptance& assumed, uint64_t request_seed, int64_t position, int i);

// A proposer that asks `drafter` and replaces what it answers. It borrows `assumed`, which may
// change between calls.
engine::Propose AssumeAcceptance(const AssumedAcceptance& assumed, engine::Propose drafter);

}  // namespace tandem::server
