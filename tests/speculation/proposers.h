// Proposers for tests: good, bad and broken ones. None of them may change a token.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/drafter.h"

namespace tandem::testing {

// What sequences say without drafts, by (seed, choice): in these tests every request has a seed of
// its own.
using Script = std::map<std::pair<uint64_t, int>, std::vector<int32_t>>;

enum class Guess {
  kOracle,      // what the script says
  kWrong,       // never what the script says
  kHalfRight,   // the script for a while, then something else
  kShort,       // the script, often less than was asked for, often nothing
  kRandom,      // any id
  kHash,        // an id that depends on every input of the slot: shows mixed-up ones
  kCoupled,     // drawn like the target draws, with its noise, from other logits
  kTooMany,     // the script, and more than was asked for
  kOutOfRange,  // the script, with ids outside the vocabulary in between
  kNotFinite,   // the script, cut by a NaN
  kAssistant,   // the target's own assistant (rig_assistant.h); not made by MakeProposer
};
constexpr Guess kAllGuesses[] = {
    Guess::kOracle, Guess::kWrong,   Guess::kHalfRight, Guess::kShort,      Guess::kRandom,
    Guess::kHash,   Guess::kCoupled, Guess::kTooMany,   Guess::kOutOfRange, Guess::kNotFinite};
std::string GuessName(Guess guess);

// `script` is looked up when asked, so it may be filled later.
engine::Propose MakeProposer(Guess guess, std::shared_ptr<const Script> script, int vocab,
                             uint64_t seed);

}  // namespace tandem::testing
