// T13: with drafts, sampled text has exactly the law of the target (mtp.md 5.2, INV-DIST).
//
// A model of 16 ids is small enough to enumerate: P is the joint law of the next three ids, worked
// out in double from the target's logits. Generations with seeds of their own, drafted in every way
// below, are counted against it by chi-square, cells that expect fewer than 5 merged.
//
// 40,000 generations a cell here; TANDEM_FULL=1 runs the 400,000 of mtp.md 5.2.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <map>
#include <numbers>
#include <random>
#include <string>

#include "tests/speculation/rounds.h"
#include "tests/speculation/tiny_model.h"

namespace tandem::testing {
namespace {

constexpr int kVocab = 16;
constexpr float kTemperature = 0.8f;
constexpr int kTopK = 8;
constexpr double kTopP = 0.9;
constexpr uint64_t kMasterSeed = 20261121;
const std::vector<int32_t> kPrompt = {3};

bool FullCount() {
  const char* full = std::getenv("TANDEM_FULL");
  return full != nullptr && std::string(full) != "0";
}

using Law = std::array<double, kVocab>;

// Temperature, top-k, top-p, in this order.
Law Process(std::span<const float> logits) {
  std::array<int, kVocab> order;
  for (int id = 0; id < kVocab; ++id) order[id] = id;
  std::sort(order.begin(), order.end(),
            [&](int a, int b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  Law law = {};
  double total = 0;
  for (int i = 0; i < kTopK; ++i) {
    law[order[i]] = std::exp((double{logits[order[i]]} - logits[order[0]]) / double{kTemperature});
    total += law[order[i]];
  }
  double mass = 0;
  for (int i = 0; i < kTopK; ++i) {
    if (mass >= kTopP * total) law[order[i]] = 0;
    mass += law[order[i]];
  }
  for (double& p : law) p /= mass;
  return law;
}

// The target by prefix: logits behind the prompt and up to four ids more.
class Enumerated {
 public:
  explicit Enumerated(EngineRig& rig) : rig_(rig) {}

  const std::vector<float>& Logits(const std::vector<int32_t>& known) {
    std::vector<float>& logits = logits_[known];
    if (logits.empty()) {
      RigSequence sequence{.ids = known};
      logits = rig_.Prefill(sequence, 8);
      rig_.Free(sequence);
    }
    return logits;
  }

  // P of the next three ids.
  std::vector<double> Joint() {
    std::vector<double> joint(kVocab * kVocab * kVocab);
    const Law first = Process(Logits(kPrompt));
    for (int a = 0; a < kVocab; ++a) {
      if (first[a] == 0) continue;
      std::vector<int32_t> known = kPrompt;
      known.push_back(a);
      const Law second = Process(Logits(known));
      for (int b = 0; b < kVocab; ++b) {
        if (second[b] == 0) continue;
        known.push_back(b);
        const Law third = Process(Logits(known));
        for (int c = 0; c < kVocab; ++c) {
          joint[(a * kVocab + b) * kVocab + c] = first[a] * second[b] * third[c];
        }
        known.pop_back();
      }
    }
    return joint;
  }

 private:
  EngineRig& rig_;
  std::map<std::vector<int32_t>, std::vector<float>> logits_;
};

// Whom the drafts come from: the target's own logits, their opposite, or no logits at all; the best
// id (scheme M), or one drawn with the target's noise (M-coupled).
enum class Source { kGood, kBad, kUniform };

class LawProposer {
 public:
  LawProposer(Source source, bool coupled, Enumerated& target)
      : source_(source), coupled_(coupled), target_(target), random_(kMasterSeed + 1) {}

  // `count` ids behind `known`, the first of which the target will draw as `next` says.
  std::vector<int32_t> Guess(std::vector<int32_t> known, engine::SampleRequest next, int count) {
    std::vector<int32_t> ids;
    for (int i = 0; i < count; ++i) {
      std::vector<float> logits(kVocab);
      // What comes behind three ids is not looked at.
      const bool matters = known.size() < kPrompt.size() + 3;
      if (source_ != Source::kUniform && matters) logits = target_.Logits(known);
      if (source_ == Source::kBad) {
        for (float& logit : logits) logit = -logit;
      }
      int32_t id = 0;
      if (coupled_) {
        id = engine::Sample(logits, next, {}, scratch_).id;
      } else if (source_ == Source::kUniform) {
        id = static_cast<int32_t>(random_() % kVocab);
      } else {
        id = ArgMax(logits);
      }
      ids.push_back(id);
      known.push_back(id);
      ++next.position;
    }
    return ids;
  }

  engine::Propose AsPropose() {
    return [this](std::span<const engine::DraftSlot> slots, std::span<engine::Draft> drafts) {
      for (size_t i = 0; i < slots.size(); ++i) {
        std::vector<int32_t> known;
        for (const auto ids : {slots[i].prompt, slots[i].output, slots[i].drawn}) {
          known.insert(known.end(), ids.begin(), ids.end());
        }
        drafts[i].ids = Guess(std::move(known), slots[i].next, slots[i].max_tokens);
      }
      return 1;
    };
  }

 private:
  Source source_;
  bool coupled_;
  Enumerated& target_;
  std::mt19937_64 random_;
  engine::SampleScratch scratch_;
};

struct Counts {
  std::vector<int64_t> joint = std::vector<int64_t>(kVocab * kVocab * kVocab);
  int64_t drafted = 0;
  int64_t accepted = 0;
};

// `n` generations of three ids. Each begins with a draft behind the prompt's last token, so that
// the three can come from one round, and goes on drafting as if there were more to come.
Counts Generate(RoundRig& rounds, LawProposer& proposer, int draft_tokens, int64_t n) {
  constexpr int kSeats = 128;
  Counts counts;
  std::vector<DraftedSequence> seats(kSeats);
  std::vector<DraftedSequence*> pointers;
  int64_t begun = 0;
  const auto begin = [&](DraftedSequence& s) {
    s = NewSequence(kPrompt, 16, draft_tokens);
    s.params = {.temperature = kTemperature,
                .top_k = kTopK,
                .top_p = static_cast<float>(kTopP),
                .seed = kMasterSeed + static_cast<uint64_t>(begun++)};
    engine::SampleRequest next = {.params = &s.params};
    next.position = static_cast<int64_t>(kPrompt.size());
    s.draft = proposer.Guess(kPrompt, next, draft_tokens);
  };
  for (DraftedSequence& s : seats) {
    begin(s);
    pointers.push_back(&s);
  }
  int64_t done = 0;
  while (done < n) {
    rounds.Step(pointers, 8);
    for (DraftedSequence& s : seats) {
      if (s.output.size() < 3) continue;
      if (done++ < n) {
        counts.joint[(s.output[0] * kVocab + s.output[1]) * kVocab + s.output[2]] += 1;
      }
      for (const Round& round : s.rounds) {
        counts.drafted += round.drafted;
        counts.accepted += round.accepted;
      }
      rounds.rig.Free(s.sequence);
      begin(s);
    }
  }
  for (DraftedSequence& s : seats) rounds.rig.Free(s.sequence);
  return counts;
}

struct Fit {
  double p_value = 0;   // of chi-square
  double distance = 0;  // total variation
  double distance_bound = 0;
  bool impossible = false;  // something of probability 0 was drawn
};

// The upper tail of chi-square, by Wilson and Hilferty's cube root: within a few per cent of itself
// for the hundreds of cells here.
double ChiSquareTail(double chi, double degrees) {
  const double spread = 2.0 / (9.0 * degrees);
  const double z = (std::cbrt(chi / degrees) - (1.0 - spread)) / std::sqrt(spread);
  return 0.5 * std::erfc(z / std::numbers::sqrt2);
}

Fit Compare(const std::vector<int64_t>& counts, const std::vector<double>& law, int64_t n) {
  Fit fit;
  double chi = 0, small_expected = 0, small_count = 0;
  int cells = 0, possible = 0;
  for (size_t i = 0; i < law.size(); ++i) {
    if (law[i] == 0) {
      fit.impossible = fit.impossible || counts[i] > 0;
      continue;
    }
    ++possible;
    const double expected = law[i] * static_cast<double>(n);
    fit.distance +=
        0.5 * std::abs(static_cast<double>(counts[i]) / static_cast<double>(n) - law[i]);
    if (expected < 5) {
      small_expected += expected;
      small_count += static_cast<double>(counts[i]);
      continue;
    }
    ++cells;
    chi += std::pow(static_cast<double>(counts[i]) - expected, 2) / expected;
  }
  if (small_expected >= 5) {
    ++cells;
    chi += std::pow(small_count - small_expected, 2) / small_expected;
  }
  fit.p_value = ChiSquareTail(chi, cells - 1);
  fit.distance_bound = 3 * std::sqrt(possible / (2 * std::numbers::pi * static_cast<double>(n)));
  return fit;
}

EngineRig LawRig() {
  return TinyRig({.vocab = kVocab, .hidden = 16, .full_head = 256, .spread = 1.5f}, 11,
                 {.threads = 1, .f32 = true, .blocks = 140, .max_step_rows = 512, .poison = false});
}

struct Cell {
  Source source;
  bool coupled;
  int draft_tokens;
};

class LawTest : public ::testing::TestWithParam<Cell> {};

TEST_P(LawTest, TheNextThreeTokensHaveTheLawOfTheTarget) {
  const Cell& cell = GetParam();
  const int64_t n = FullCount() ? 400'000 : 40'000;
  EngineRig rig = LawRig();
  Enumerated target(rig);
  LawProposer proposer(cell.source, cell.coupled, target);
  RoundRig rounds(rig, proposer.AsPropose());
  const Counts counts = Generate(rounds, proposer, cell.draft_tokens, n);
  const Fit fit = Compare(counts.joint, target.Joint(), n);
  EXPECT_FALSE(fit.impossible);
  EXPECT_GT(fit.p_value, 1e-4);
  EXPECT_LT(fit.distance, fit.distance_bound);
  // The proposers are as good as they are meant to be, so the drafts did matter.
  const double rate = static_cast<double>(counts.accepted) / static_cast<double>(counts.drafted);
  if (cell.source == Source::kGood) {
    EXPECT_GT(rate, cell.coupled ? 0.95 : 0.15);
  }
  if (cell.source == Source::kBad) {
    EXPECT_LT(rate, 0.1);
  }
  RecordProperty("p_value", std::to_string(fit.p_value));
  RecordProperty("acceptance", std::to_string(rate));
}

std::vector<Cell> Cells() {
  std::vector<Cell> cells;
  for (const bool coupled : {false, true}) {
    for (const Source source : {Source::kGood, Source::kBad, Source::kUniform}) {
      for (int k = 1; k <= 3; ++k) cells.push_back({source, coupled, k});
    }
  }
  return cells;
}

std::string CellName(const ::testing::TestParamInfo<Cell>& info) {
  const char* const sources[] = {"Good", "Bad", "Uniform"};
  return std::string(sources[static_cast<int>(info.param.source)]) +
         (info.param.coupled ? "Coupled" : "") + "K" + std::to_string(info.param.draft_tokens);
}

INSTANTIATE_TEST_SUITE_P(Cells, LawTest, ::testing::ValuesIn(Cells()), CellName);

// The law test can fail: each of these mistakes in a round shows in it.
struct Mistake {
  const char* name;
  void (*tamper)(engine::StepBatch&);
};

const Mistake kMistakes[] = {
    {"NoisePositionNotAdvancedInADraft",
     [](engine::StepBatch& batch) {
       for (const engine::Segment& segment : batch.segments) {
         for (engine::SampleRequest& sample : batch.samples) {
           const int first = segment.row_begin + segment.num_rows - segment.num_drafts - 1;
           if (sample.row > first && sample.row < segment.row_begin + segment.num_rows) {
             sample.position -= sample.row - first;
           }
         }
       }
     }},
    {"BonusTokenFromTheRowBeforeIt",
     [](engine::StepBatch& batch) {
       for (const engine::Segment& segment : batch.segments) {
         if (segment.num_drafts == 0) continue;
         for (engine::SampleRequest& sample : batch.samples) {
           if (sample.row == segment.row_begin + segment.num_rows - 1) sample.row -= 1;
         }
       }
     }},
    {"DraftsAtPositionsOneTooEarly",
     [](engine::StepBatch& batch) {
       for (const engine::Segment& segment : batch.segments) {
         for (int d = 0; d < segment.num_drafts; ++d) {
           batch.positions[segment.row_begin + segment.num_rows - 1 - d] -= 1;
         }
       }
     }},
    {"NoTopPBehindADraft",
     [](engine::StepBatch& batch) {
       static std::vector<engine::SamplingParams> copies;  // until the step has run
       copies.clear();
       copies.reserve(batch.samples.size());
       for (engine::SampleRequest& sample : batch.samples) {
         if (sample.drafted.empty()) continue;
         copies.push_back(*sample.params);
         copies.back().top_p = 1.0f;
         sample.params = &copies.back();
       }
     }},
};

class LawMistakeTest : public ::testing::TestWithParam<Mistake> {};

TEST_P(LawMistakeTest, ShowsInTheLaw) {
  EngineRig rig = LawRig();
  Enumerated target(rig);
  LawProposer proposer(Source::kGood, /*coupled=*/false, target);
  RoundRig rounds(rig, proposer.AsPropose());
  rounds.tamper = GetParam().tamper;
  const Counts counts = Generate(rounds, proposer, /*draft_tokens=*/2, 40'000);
  const Fit fit = Compare(counts.joint, target.Joint(), 40'000);
  EXPECT_TRUE(fit.impossible || fit.p_value < 1e-4) << fit.p_value;
}

INSTANTIATE_TEST_SUITE_P(Mistakes, LawMistakeTest, ::testing::ValuesIn(kMistakes),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tandem::testing
