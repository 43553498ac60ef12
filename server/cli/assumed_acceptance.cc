#include "server/cli/assumed_acceptance.h"

#include <algorithm>
#include <utility>

#include "bench/random.h"
#include "scheduler/request.h"

namespace tandem::server {
namespace {

// Replaces the guesses of one draft. Behind the first wrong one they do not matter.
void Decide(const AssumedAcceptance& assumed, const engine::DraftSlot& slot, engine::Draft& draft) {
  const uint64_t seed = slot.next.params->seed;
  const auto answer = assumed.answers.find(seed);
  if (answer == assumed.answers.end()) return;
  const std::vector<int32_t>& known = answer->second;
  const size_t said = slot.output.size() + slot.drawn.size();
  for (size_t i = 0; i < draft.ids.size() && said + i < known.size(); ++i) {
    const int32_t right = known[said + i];
    if (!CoinHolds(assumed, seed, slot.position, static_cast<int>(i))) {
      draft.ids[i] = (right + 1) % assumed.vocab;
      return;
    }
    draft.ids[i] = right;
  }
}

}  // namespace

bool CoinHolds(const AssumedAcceptance& assumed, uint64_t request_seed, int64_t position, int i) {
  const size_t at = std::min(static_cast<size_t>(i), assumed.chances.size() - 1);
  const uint64_t of_request = bench::Random(assumed.coin_seed, request_seed).Bits();
  const uint64_t toss = static_cast<uint64_t>(position) * scheduler::kMaxDraftTokens + i;
  return bench::Random(of_request, toss).Unit() < assumed.chances[at];
}

engine::Propose AssumeAcceptance(const AssumedAcceptance& assumed, engine::Propose drafter) {
  return [&assumed, drafter = std::move(drafter)](std::span<const engine::DraftSlot> slots,
                                                  std::span<engine::Draft> drafts) {
    const int steps = drafter(slots, drafts);
    if (assumed.chances.empty()) return steps;
    for (size_t i = 0; i < slots.size(); ++i) Decide(assumed, slots[i], drafts[i]);
    return steps;
  };
}

}  // namespace tandem::server
