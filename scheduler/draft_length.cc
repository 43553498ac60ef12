#include "scheduler/draft_length.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

namespace tandem::scheduler {
namespace {

// Estimates.
constexpr float kKept = 0.9f;         // of all earlier trials' weight, at each new one
constexpr float kPriorWeight = 4.0f;  // of the prior, in trials
constexpr float kDoubt = 0.03f;       // how far an untried place drifts in a round
constexpr float kLeastWeight = 3.0f;  // of a place that was not tried for kLongAgo rounds
constexpr int kLongAgo = 16;
constexpr float kMostHopeful = 0.98f;  // what an untried place may be believed to hold
constexpr int kYoungRounds = 8;        // in which a sequence teaches the prior
constexpr float kLeastPrior = 0.01f;   // that the one behind it is compared with
constexpr float kPriorTrialWeight = 0.02f;
constexpr int kMostTrials = 1000;  // that are counted

// Choice.
// Costs are known to a tenth at best. With mtp.md's 1.03, batches near the even point drafted at a
// loss of up to 5 %: 16 streams of the demo model.
constexpr double kMinSpeedup = 1.10;
constexpr double kMinWorth = 0.01;    // a guess worth less is never taken
constexpr int kWorthBuckets = 256;
constexpr std::array kDepthCaps = {1, 2, 3, 4, 6, 8, 12, kMaxDraftTokens};

// Trials.
constexpr int kFirstPause = 32;
constexpr int kLongestPause = 512;
constexpr int kTrialSteps = 16;       // trials of several sequences fall on multiples of this
constexpr double kTrialShare = 0.01;  // of the time, spent on trials
constexpr double kGoodGuess = 0.9;
// Costs are tried as well: decoding without drafts while they pay, and with drafts while they do
// not. What is close to even is tried more often.
constexpr double kCloseCall = 1.15;
constexpr int kCloseCallSteps = 64;
constexpr int kCostTrialSteps = 512;
constexpr double kHopelessSpeedup = 0.5;

using Estimates = std::array<float, kMaxDraftTokens>;

// What place i is believed to hold when it was never tried, after `before`, the estimate of the
// place before it.
float Untried(const DraftPrior& prior, int i, float before) {
  if (i == 0) return prior.held[0];
  const float falls = std::min(1.0f, prior.held[i] / std::max(prior.held[i - 1], kLeastPrior));
  return std::min(kMostHopeful, before * falls);
}

Estimates EstimatesOf(const DraftHistory& history, const DraftPrior& prior) {
  Estimates estimates;
  float before = 1.0f;
  for (int i = 0; i < kMaxDraftTokens; ++i) {
    const DraftHistory::Place& place = history.places[i];
    before = estimates[i] = place.weight > 0 ? place.held : Untried(prior, i, before);
  }
  return estimates;
}

// One trial of one place that stood at `estimate`.
void Try(DraftHistory::Place& place, float estimate, bool held) {
  const float before = kKept * (place.weight > 0 ? place.weight : kPriorWeight);
  place.weight = before + 1.0f;
  place.held = (before * estimate + (held ? 1.0f : 0.0f)) / place.weight;
}

void TeachPrior(DraftPrior& prior, int i, bool held) {
  prior.trials[i] = std::min(prior.trials[i] + 1, kMostTrials);
  const float weight =
      std::max(kPriorTrialWeight, 1.0f / (kPriorWeight + static_cast<float>(prior.trials[i])));
  prior.held[i] += weight * ((held ? 1.0f : 0.0f) - prior.held[i]);
  // Places that nobody reached yet fall off as they did before anything was seen.
  const DraftPrior unseen;
  for (int j = i + 1; j < kMaxDraftTokens && prior.trials[j] == 0; ++j) {
    prior.held[j] = prior.held[j - 1] * unseen.held[j] / unseen.held[j - 1];
  }
}

// The rows and chain steps of a set of drafts, and what they are worth.
struct Load {
  double tokens = 0;
  int rows = 0;
  std::array<int, kMaxDraftTokens> slots = {};  // by depth
  double chain_us = 0;
};

struct Costs {
  int first_rows = 0;
  std::vector<double> step_us;   // [rows - first_rows]
  std::vector<double> draft_us;  // [slots]

  double StepUs(int rows) const { return step_us[rows - first_rows]; }
  // Of one more slot in a step of the chain.
  double SlotUs(int slots) const { return draft_us[slots + 1] - draft_us[slots]; }
  double Us(const Load& load) const { return StepUs(load.rows) + load.chain_us; }
  double TokensPerUs(const Load& load) const { return load.tokens / Us(load); }
  void Add(Load& load, int depth, double worth) const {
    load.tokens += worth;
    ++load.rows;
    load.chain_us += SlotUs(load.slots[depth]++);
  }
};

// One more guess for one sequence, behind those before it.
struct Guess {
  int wish = 0;
  int depth = 0;
  float worth = 0;
};

// All guesses that kAuto sequences could be given, the best first: by worth in steps of
// 1/kWorthBuckets, which never puts a guess before the one it builds on.
std::vector<Guess> RankGuesses(std::span<const DraftWish> wishes,
                               std::span<const Estimates> estimates) {
  std::vector<Guess> guesses;
  std::array<int, kWorthBuckets + 1> begins = {};
  const auto bucket_of = [](float worth) {
    return kWorthBuckets - 1 -
           std::clamp(static_cast<int>(worth * kWorthBuckets), 0, kWorthBuckets - 1);
  };
  for (int w = 0; w < static_cast<int>(wishes.size()); ++w) {
    if (wishes[w].mode != Speculation::Mode::kAuto) continue;
    float worth = 1.0f;
    for (int depth = 0; depth < std::min(wishes[w].max_tokens, kMaxDraftTokens); ++depth) {
      worth *= estimates[w][depth];
      if (worth < kMinWorth) break;
      guesses.push_back({.wish = w, .depth = depth, .worth = worth});
      ++begins[bucket_of(worth) + 1];
    }
  }
  std::partial_sum(begins.begin(), begins.end(), begins.begin());
  std::vector<Guess> ranked(guesses.size());
  for (const Guess& guess : guesses) ranked[begins[bucket_of(guess.worth)]++] = guess;
  return ranked;
}

// The best prefix of `ranked` among drafts no longer than some cap: a long draft of one sequence
// costs whole chain steps, so it must not stand before short ones of many.
struct Best {
  double tokens_per_us = 0;
  int depth_cap = 0;
  size_t length = 0;  // of the prefix, deeper guesses counted but not taken; 0: none is best
};
Best BestPrefix(std::span<const Guess> ranked, const Load& without, const Costs& costs) {
  Best best;
  int deepest = 0;
  double all_worth = 0;
  for (const Guess& guess : ranked) {
    deepest = std::max(deepest, guess.depth + 1);
    all_worth += guess.worth;
  }
  for (const int cap : kDepthCaps) {
    Load load = without;
    double left = all_worth;
    for (size_t i = 0; i < ranked.size(); ++i) {
      left -= ranked[i].worth;
      if (ranked[i].depth >= cap) continue;
      costs.Add(load, ranked[i].depth, ranked[i].worth);
      const double us = costs.Us(load);
      if (load.tokens > best.tokens_per_us * us) best = {load.tokens / us, cap, i + 1};
      // Costs never fall, so what is left could not make up for it.
      if (load.tokens + left < best.tokens_per_us * us) break;
    }
    if (cap >= deepest) break;
  }
  return best;
}

// Whether one more sequence, or `others` more, would draft in this batch if guesses held well.
bool GoodGuessesPay(const Load& load, int others, double min_tokens_per_us, const Costs& costs) {
  for (const int sequences : {1, others}) {
    Load better = load;
    double worth = 1.0;
    for (int depth = 0; depth < kMaxDraftTokens; ++depth) {
      worth *= kGoodGuess;
      if (better.rows + sequences - costs.first_rows >= static_cast<int>(costs.step_us.size())) {
        break;
      }
      for (int s = 0; s < sequences; ++s) costs.Add(better, depth, worth);
      if (costs.TokensPerUs(better) >= min_tokens_per_us) return true;
    }
  }
  return false;
}

class Chooser {
 public:
  Chooser(std::span<const DraftWish> wishes, const DraftPrior& prior, const CostModel& cost,
          int64_t step)
      : wishes_(wishes), prior_(prior), step_(step) {
    choice_.tokens.resize(wishes.size());
    choice_.reasons.resize(wishes.size());
    estimates_.reserve(wishes.size());
    load_.rows = static_cast<int>(wishes.size());
    load_.tokens = static_cast<double>(wishes.size());
    for (const DraftWish& wish : wishes) estimates_.push_back(EstimatesOf(wish.history, prior));
    ReadCosts(cost);
    TakeFixed();
  }

  DraftChoice Choose() {
    const bool unmeasured = costs_.StepUs(load_.rows) <= 0;
    for (size_t w = 0; w < wishes_.size(); ++w) {
      if (!IsFree(w)) continue;
      free_.push_back(static_cast<int>(w));
      choice_.reasons[w] = unmeasured ? DraftReason::kUnmeasured : DraftReason::kCost;
    }
    if (free_.empty() || unmeasured) return std::move(choice_);
    if (costs_.draft_us.back() <= 0) {
      TryTheDrafter();
    } else if (!TakeWhatPays()) {
      ExplainNone();
      TryAcceptance();
    }
    return std::move(choice_);
  }

 private:
  bool Allowed(size_t w) const {
    return wishes_[w].mode != Speculation::Mode::kOff && wishes_[w].max_tokens > 0;
  }
  bool IsFree(size_t w) const { return Allowed(w) && wishes_[w].mode == Speculation::Mode::kAuto; }

  void ReadCosts(const CostModel& cost) {
    int guesses = 0;
    for (size_t w = 0; w < wishes_.size(); ++w) {
      if (Allowed(w)) guesses += std::min(wishes_[w].max_tokens, kMaxDraftTokens);
    }
    costs_.first_rows = load_.rows;
    costs_.step_us.resize(guesses + 1);
    costs_.draft_us.resize(wishes_.size() + 1);
    DecodeStepsUs(cost, costs_.first_rows, costs_.step_us);
    DraftStepsUs(cost, costs_.draft_us);
  }

  void TakeFixed() {
    for (size_t w = 0; w < wishes_.size(); ++w) {
      if (!Allowed(w) || wishes_[w].mode != Speculation::Mode::kFixed) continue;
      choice_.tokens[w] = std::min(wishes_[w].max_tokens, kMaxDraftTokens);
      choice_.reasons[w] = DraftReason::kFixed;
      double worth = 1.0;
      for (int depth = 0; depth < choice_.tokens[w]; ++depth) {
        costs_.Add(load_, depth, worth *= estimates_[w][depth]);
      }
    }
  }

  void Give(const Guess& guess, DraftReason reason) {
    choice_.tokens[guess.wish] = guess.depth + 1;
    choice_.reasons[guess.wish] = reason;
    costs_.Add(load_, guess.depth, guess.worth);
  }

  // Nobody knows yet what a draft costs: one guess each tells.
  void TryTheDrafter() {
    for (const int w : free_) {
      if (wishes_[w].pending > 0 || estimates_[w][0] < 1 - kGoodGuess) continue;
      Give({.wish = w, .depth = 0, .worth = estimates_[w][0]}, DraftReason::kTrial);
    }
  }

  // The best set of guesses, if it beats none by enough; now and then the other way round, to see
  // what that costs by now.
  //   returns  whether this step tries decoding without drafts
  bool TakeWhatPays() {
    const double plain = costs_.TokensPerUs(load_);
    choice_.plain_tokens_per_s = choice_.drafted_tokens_per_s = 1e6 * plain;
    const std::vector<Guess> ranked = RankGuesses(wishes_, estimates_);
    const Best best = BestPrefix(ranked, load_, costs_);
    const double speedup = best.tokens_per_us / plain;
    const bool pays = speedup >= kMinSpeedup;
    const bool close = speedup < kCloseCall && speedup > 1 / kCloseCall;
    const bool try_other = step_ % (close ? kCloseCallSteps : kCostTrialSteps) == 0;
    const bool draft = pays != try_other;
    if (!pays && (!draft || speedup < kHopelessSpeedup)) return false;
    const DraftReason reason = try_other ? DraftReason::kTrial : DraftReason::kPays;
    for (size_t i = 0; i < best.length; ++i) {
      if (ranked[i].depth >= best.depth_cap) continue;
      if (draft) Give(ranked[i], reason);
      choice_.reasons[ranked[i].wish] = reason;
    }
    if (pays && draft) choice_.drafted_tokens_per_s = 1e6 * best.tokens_per_us;
    return !draft;
  }

  // Whose guesses are at fault, where even good ones would pay.
  void ExplainNone() {
    std::vector<int> bad;
    for (const int w : free_) {
      if (choice_.reasons[w] == DraftReason::kCost && estimates_[w][0] < kGoodGuess) {
        bad.push_back(w);
      }
    }
    if (bad.empty()) return;
    const bool drafting = load_.slots[0] > 0;
    const double needed = costs_.TokensPerUs(load_) * (drafting ? 1.0 : kMinSpeedup);
    if (!GoodGuessesPay(load_, static_cast<int>(bad.size()), needed, costs_)) return;
    for (const int w : bad) choice_.reasons[w] = DraftReason::kAcceptance;
    bad_ = std::move(bad);
  }

  void TryAcceptance() {
    if (bad_.empty()) return;
    // So seldom that trying all of them costs no more than its share.
    Load all = load_;
    for (size_t i = 0; i < bad_.size(); ++i) costs_.Add(all, 0, 0.0);
    const double cost = costs_.Us(all) / costs_.Us(load_) - 1;
    int64_t period = kTrialSteps;
    while (static_cast<double>(period) * kTrialShare < cost) period *= 2;
    const bool now = step_ % period == 0;
    // Those whose last trial held are tried again at once, if they would pay.
    Load again = load_;
    for (const int w : bad_) {
      if (HeldLastTime(w)) costs_.Add(again, 0, kGoodGuess);
    }
    const bool again_now = costs_.TokensPerUs(again) >= costs_.TokensPerUs(load_);
    for (const int w : bad_) {
      if (wishes_[w].pending > 0) continue;
      const DraftHistory& history = wishes_[w].history;
      const bool due =
          HeldLastTime(w) ? now || again_now : now && history.idle_rounds >= history.pause_rounds;
      if (due) Give({.wish = w, .depth = 0, .worth = estimates_[w][0]}, DraftReason::kTrial);
    }
  }

  bool HeldLastTime(int w) const {
    return wishes_[w].history.pause_rounds == 0 && wishes_[w].pending == 0;
  }

  const std::span<const DraftWish> wishes_;
  const DraftPrior& prior_;
  const int64_t step_;
  std::vector<Estimates> estimates_;  // by wish
  Costs costs_;
  Load load_;              // of what was given so far
  std::vector<int> free_;  // wishes of kAuto that may have guesses
  std::vector<int> bad_;   // of these, those with kAcceptance
  DraftChoice choice_;
};

}  // namespace

void Observe(DraftHistory& history, DraftPrior& prior, int drafted, int accepted) {
  if (drafted <= 0) {
    ++history.idle_rounds;
    return;
  }

  float before = 1.0f;
  for (int i = 0; i < kMaxDraftTokens; ++i) {
    DraftHistory::Place& place = history.places[i];
    const float untried = Untried(prior, i, before);
    const bool held = i < accepted;
    if (i < drafted && i <= accepted) {
      if (history.idle_rounds >= kLongAgo) place.weight = std::min(place.weight, kLeastWeight);
      Try(place, place.weight > 0 ? place.held : untried, held);
      if (history.rounds < kYoungRounds) TeachPrior(prior, i, held);
    } else if (accepted >= drafted && place.weight > 0 && place.held < untried) {
      // All before it held: what was seen here may no longer be true.
      place.held += kDoubt * (untried - place.held);
      place.weight = std::max(std::min(place.weight, kLeastWeight), (1 - kDoubt) * place.weight);
    }
    before = place.weight > 0 ? place.held : untried;
  }

  if (accepted > 0) {
    history.pause_rounds = 0;
  } else if (history.pause_rounds > 0 && history.idle_rounds >= history.pause_rounds) {
    history.pause_rounds = std::clamp(2 * history.pause_rounds, kFirstPause, kLongestPause);
  } else {
    history.pause_rounds = kFirstPause;
  }
  ++history.rounds;
  history.idle_rounds = 0;
}

DraftChoice ChooseDraftLengths(std::span<const DraftWish> wishes, const DraftPrior& prior,
                               const CostModel& cost, int64_t step) {
  return Chooser(wishes, prior, cost, step).Choose();
}

}  // namespace tandem::scheduler
