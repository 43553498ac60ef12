#include "tests/speculation/proposers.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>

#include "engine/sampling.h"

namespace tandem::testing {
namespace {

using engine::Draft;
using engine::DraftSlot;

uint64_t Mix(uint64_t hash, uint64_t value) {
  hash = (hash ^ value) * 0x9e3779b97f4a7c15u;
  return hash ^ (hash >> 29);
}

// Depends on everything that a proposer is given about a sequence, but on no pointer.
uint64_t HashOf(const DraftSlot& slot) {
  uint64_t hash = Mix(1, slot.token);
  hash = Mix(hash, slot.position);
  for (const std::byte value : slot.handoff) hash = Mix(hash, static_cast<uint64_t>(value));
  for (const auto ids : {slot.prompt, slot.output, slot.drawn}) {
    for (const int32_t id : ids) hash = Mix(hash, id);
  }
  return Mix(hash, slot.next.position);
}

// The ids that the script has behind the slot's newest token.
std::vector<int32_t> Rest(const Script& script, const DraftSlot& slot) {
  const auto text = script.find({slot.next.params->seed, slot.next.choice});
  const size_t said = slot.output.size() + slot.drawn.size();
  if (text == script.end() || text->second.size() <= said) return {};
  return {text->second.begin() + said, text->second.end()};
}

class Proposer {
 public:
  Proposer(Guess guess, std::shared_ptr<const Script> script, int vocab, uint64_t seed)
      : guess_(guess), script_(std::move(script)), vocab_(vocab), random_(seed) {}

  int Propose(std::span<const DraftSlot> slots, std::span<Draft> drafts) {
    int steps = 0;
    for (size_t i = 0; i < slots.size(); ++i) {
      drafts[i] = One(slots[i]);
      steps = std::max(steps, slots[i].max_tokens);
    }
    return steps;
  }

 private:
  int In(int min, int max) { return min + static_cast<int>(random_() % (max - min + 1)); }
  int32_t Other(int32_t id) { return (id + In(1, vocab_ - 1)) % vocab_; }

  Draft One(const DraftSlot& slot) {
    Draft draft;
    std::vector<int32_t>& ids = draft.ids;
    const size_t wanted = slot.max_tokens;
    ids = Rest(*script_, slot);
    switch (guess_) {
      case Guess::kOracle:
        break;
      case Guess::kWrong:
        for (int32_t& id : ids) id = Other(id);
        break;
      case Guess::kHalfRight:
        for (size_t i = In(0, slot.max_tokens); i < ids.size(); ++i) ids[i] = Other(ids[i]);
        break;
      case Guess::kShort:
        ids.resize(std::min<size_t>(ids.size(), In(0, slot.max_tokens)));
        break;
      case Guess::kRandom:
        ids.resize(wanted);
        for (int32_t& id : ids) id = In(0, vocab_ - 1);
        break;
      case Guess::kHash:
        ids.resize(wanted);
        for (size_t i = 0; i < wanted; ++i) {
          ids[i] = static_cast<int32_t>(Mix(HashOf(slot), i) % vocab_);
        }
        break;
      case Guess::kCoupled:
        ids = Coupled(slot);
        break;
      case Guess::kTooMany:
        while (ids.size() < wanted + 3) ids.push_back(In(0, vocab_ - 1));
        return draft;
      case Guess::kOutOfRange:
        for (int32_t& id : ids) {
          const int32_t outside[] = {-1, vocab_, std::numeric_limits<int32_t>::max(),
                                     std::numeric_limits<int32_t>::min()};
          if (In(0, 2) == 0) id = outside[In(0, 3)];
        }
        break;
      case Guess::kNotFinite:
        ids.resize(std::min<size_t>(ids.size(), In(0, slot.max_tokens)));
        draft.finite = false;
        break;
      case Guess::kAssistant:
        std::abort();
    }
    if (ids.size() > wanted) ids.resize(wanted);
    return draft;
  }

  // As the target: the request's own parameters and noise, on made-up logits.
  std::vector<int32_t> Coupled(const DraftSlot& slot) {
    std::vector<int32_t> ids;
    std::vector<int32_t> drafted(slot.next.drafted.begin(), slot.next.drafted.end());
    std::vector<float> logits(vocab_);
    for (int i = 0; i < slot.max_tokens; ++i) {
      for (float& logit : logits) logit = static_cast<float>(In(-400, 400)) / 100.0f;
      engine::SampleRequest request = slot.next;
      request.position += i;
      request.drafted = drafted;
      const engine::SampledToken token = engine::Sample(logits, request, {}, scratch_);
      if (!token.finite) break;
      ids.push_back(token.id);
      drafted.push_back(token.id);
    }
    return ids;
  }

  Guess guess_;
  std::shared_ptr<const Script> script_;
  int vocab_;
  std::mt19937_64 random_;
  engine::SampleScratch scratch_;
};

}  // namespace

std::string GuessName(Guess guess) {
  switch (guess) {
    case Guess::kOracle:
      return "Oracle";
    case Guess::kWrong:
      return "Wrong";
    case Guess::kHalfRight:
      return "HalfRight";
    case Guess::kShort:
      return "Short";
    case Guess::kRandom:
      return "Random";
    case Guess::kHash:
      return "Hash";
    case Guess::kCoupled:
      return "Coupled";
    case Guess::kTooMany:
      return "TooMany";
    case Guess::kOutOfRange:
      return "OutOfRange";
    case Guess::kNotFinite:
      return "NotFinite";
    case Guess::kAssistant:
      return "Assistant";
  }
  return "";
}

engine::Propose MakeProposer(Guess guess, std::shared_ptr<const Script> script, int vocab,
                             uint64_t seed) {
  auto proposer = std::make_shared<Proposer>(guess, std::move(script), vocab, seed);
  return [proposer](std::span<const DraftSlot> slots, std::span<Draft> drafts) {
    return proposer->Propose(slots, drafts);
  };
}

}  // namespace tandem::testing
