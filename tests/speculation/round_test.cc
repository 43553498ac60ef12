// The round over a real model, by hand: what a proposer is handed, what a rollback leaves, and that
// nothing else of a sequence matters. T06, T07, T10, T15, T16, T21, T26 and T31 of mtp.md 5.3, the
// engine's half.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "tests/engine/kv_rows.h"
#include "tests/speculation/plain_text.h"
#include "tests/speculation/proposers.h"
#include "tests/speculation/rounds.h"
#include "tests/speculation/tiny_model.h"

namespace tandem::testing {
namespace {

using engine::kFull;
using engine::kSliding;
using engine::KvGroup;
using ::testing::ElementsAre;

std::vector<int32_t> RandomPrompt(const engine::ModelConfig& config, int size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids;
  while (static_cast<int>(ids.size()) < size) ids.push_back(107 + random() % (config.vocab - 120));
  return ids;
}

bool SameBits(std::span<const std::byte> row, std::span<const float> b) {
  return row.size() == b.size_bytes() && std::memcmp(row.data(), b.data(), row.size()) == 0;
}

bool SameText(const DraftedSequence& a, const DraftedSequence& b) {
  return std::equal(a.drawn.begin(), a.drawn.end(), b.drawn.begin(), b.drawn.end(), SameToken);
}

// What a proposer was handed, copied.
struct Seen {
  int32_t token = 0;
  int32_t position = 0;
  std::vector<std::byte> handoff;
  std::vector<int32_t> known;  // prompt, output, drawn
  int64_t next_position = 0;
  std::vector<int32_t> next_drafted;
};

Seen Copy(const engine::DraftSlot& slot) {
  Seen seen = {.token = slot.token,
               .position = slot.position,
               .handoff = {slot.handoff.begin(), slot.handoff.end()},
               .next_position = slot.next.position,
               .next_drafted = {slot.next.drafted.begin(), slot.next.drafted.end()}};
  for (const auto ids : {slot.prompt, slot.output, slot.drawn}) {
    seen.known.insert(seen.known.end(), ids.begin(), ids.end());
  }
  return seen;
}

// Without drafts, a row at a time: the ids, and by position the row after the final norm.
struct Plain {
  std::vector<int32_t> ids;  // prompt and output
  std::vector<std::vector<float>> hidden;
  RigSequence sequence;  // as it stands in the end
};

Plain SayPlainly(EngineRig& rig, const std::vector<int32_t>& prompt, int tokens) {
  Plain plain;
  plain.sequence.ids = prompt;
  while (plain.sequence.done < static_cast<int>(prompt.size()) + tokens - 1) {
    RigRun run{.sequence = &plain.sequence, .rows = 1};
    rig.Step({&run, 1});
    plain.hidden.push_back(run.hidden.back());
    if (plain.sequence.done == static_cast<int>(plain.sequence.ids.size())) {
      plain.sequence.ids.push_back(
          ArgMax(run.logits.back(), rig.model.config.generation.suppressed_ids));
    }
  }
  plain.ids = plain.sequence.ids;
  return plain;
}

// A golden variant, and numbers as SetNumbers reads them.
using Param = std::tuple<const char*, const char*>;

class RoundTest : public ::testing::TestWithParam<Param> {
 protected:
  RoundTest() : rig(GoldenDir(std::get<0>(GetParam())) + "/target", Config()) {}

  static RigConfig Config() {
    RigConfig config = {.threads = 1, .blocks = 96, .max_step_rows = 128};
    SetNumbers(config, std::get<1>(GetParam()));
    return config;
  }

  EngineRig rig;
};

// T06
TEST_P(RoundTest, TheHandoffIsTheRowThatTheNewestTokenWasDrawnFromForEveryAcceptedCount) {
  // Given what the model says by itself.
  const std::vector<int32_t> prompt = RandomPrompt(rig.model.config, 9, 1);
  Plain plain = SayPlainly(rig, prompt, 14);
  rig.Free(plain.sequence);
  for (int k = 1; k <= 5; ++k) {
    for (int a = 0; a <= k; ++a) {
      // When drafts of k ids are right up to the a-th.
      std::vector<Seen> seen;
      RoundRig rounds(
          rig, [&](std::span<const engine::DraftSlot> slots, std::span<engine::Draft> drafts) {
            seen.push_back(Copy(slots[0]));
            for (int i = 0; i < k; ++i) {
              const size_t at = slots[0].position + 1 + i;
              const int32_t right = at < plain.ids.size() ? plain.ids[at] : 0;
              drafts[0].ids.push_back(i < a ? right : (right + 1) % rig.model.config.vocab);
            }
            return k;
          });
      DraftedSequence s = NewSequence(prompt, 14, k);
      rounds.Run(s, 4);
      // Then as many hold, and the proposer gets the row of the last one that did.
      EXPECT_EQ(s.sequence.ids, plain.ids);
      ASSERT_GE(s.rounds.size(), 2u);
      EXPECT_EQ(s.rounds[0], (Round{0, 0}));
      EXPECT_EQ(s.rounds[1], (Round{k, a})) << "k " << k << " a " << a;
      for (const Seen& each : seen) {
        const size_t known = each.known.size();
        EXPECT_EQ(each.position, static_cast<int>(known) - 1);
        EXPECT_EQ(each.token, plain.ids[each.position]);
        EXPECT_TRUE(std::equal(each.known.begin(), each.known.end(), plain.ids.begin()));
        EXPECT_TRUE(SameBits(each.handoff, plain.hidden[each.position - 1]))
            << "k " << k << " a " << a << " position " << each.position;
        // The noise and the counts with which the target will draw next.
        EXPECT_EQ(each.next_position, each.position + 1);
        ASSERT_FALSE(each.next_drafted.empty());
        EXPECT_EQ(each.next_drafted.back(), each.token);
      }
      rig.Free(s.sequence);
    }
  }
}

// T07
TEST_P(RoundTest, AfterAPromptTheHandoffIsItsLastRow) {
  const int chunk = 8;
  for (const int size : {1, 7, chunk, chunk + 1, 2 * chunk, 5 * chunk + 3}) {
    const std::vector<int32_t> prompt = RandomPrompt(rig.model.config, size, size);
    Plain plain = SayPlainly(rig, prompt, 1);
    rig.Free(plain.sequence);
    std::vector<Seen> seen;
    RoundRig rounds(rig, [&](std::span<const engine::DraftSlot> slots, std::span<engine::Draft>) {
      seen.push_back(Copy(slots[0]));
      return 1;
    });
    DraftedSequence s = NewSequence(prompt, 2, 1);
    DraftedSequence* const one[] = {&s};
    while (s.drawn.empty()) rounds.Step(one, chunk);
    ASSERT_EQ(seen.size(), 1u) << "drafts before the last chunk, prompt of " << size;
    EXPECT_EQ(seen[0].position, size);
    EXPECT_TRUE(SameBits(seen[0].handoff, plain.hidden[size - 1])) << "prompt of " << size;
    rig.Free(s.sequence);
  }
}

// After a preemption everything runs again; the row of the newest token gives the handoff (3.7).
TEST_P(RoundTest, AfterAPreemptionTheHandoffIsThatOfAnUndisturbedRun) {
  const std::vector<int32_t> prompt = RandomPrompt(rig.model.config, 11, 3);
  const Plain plain = SayPlainly(rig, prompt, 12);
  std::vector<Seen> seen;
  auto script = std::make_shared<Script>();
  (*script)[{0, 0}] = {plain.ids.begin() + prompt.size(), plain.ids.end()};
  const engine::Propose half = MakeProposer(Guess::kHalfRight, script, rig.model.config.vocab, 5);
  RoundRig rounds(rig, [&](auto slots, auto drafts) {
    seen.push_back(Copy(slots[0]));
    return half(slots, drafts);
  });
  DraftedSequence s = NewSequence(prompt, 12, 3);
  DraftedSequence* const one[] = {&s};
  for (int step = 1; !s.ended(); ++step) {
    rounds.Step(one, 5);
    if (step % 5 == 0) rounds.Drop(s);
  }
  EXPECT_EQ(s.sequence.ids, plain.ids);
  for (const Seen& each : seen) {
    EXPECT_TRUE(SameBits(each.handoff, plain.hidden[each.position - 1])) << each.position;
  }
}

// T10
TEST_P(RoundTest, AThousandRollbacksLeaveTheRowsOfARunWithoutDrafts) {
  int rounds_left = std::string(std::get<0>(GetParam())) == "e4b-like" ? 1000 : 100;
  const int tokens = 4 * rig.model.config.sliding_window;
  for (uint32_t seed = 1; rounds_left > 0; ++seed) {
    const std::vector<int32_t> prompt = RandomPrompt(rig.model.config, 5, seed);
    Plain plain = SayPlainly(rig, prompt, tokens);
    auto script = std::make_shared<Script>();
    (*script)[{0, 0}] = {plain.ids.begin() + prompt.size(), plain.ids.end()};
    RoundRig rounds(rig, MakeProposer(Guess::kHalfRight, script, rig.model.config.vocab, seed));
    DraftedSequence s = NewSequence(prompt, tokens, 1 + seed % 6);
    rounds.Run(s, 16);
    rounds_left -= static_cast<int>(s.rounds.size());
    ASSERT_EQ(s.sequence.ids, plain.ids);
    // Every row that either holds, byte for byte. Blocks that begin before the window are gone in
    // both; the plain run may be a row ahead or behind.
    const int committed = std::min(s.sequence.done, plain.sequence.done);
    for (const KvGroup group : {kSliding, kFull}) {
      int compared = 0;
      for (int position = 0; position < committed; ++position) {
        const int block = position / rig.config.block_tokens;
        if (s.sequence.tables[group][block] < 0) continue;
        if (plain.sequence.tables[group][block] < 0) continue;
        ++compared;
        ASSERT_TRUE(KvRow(rig, s.sequence, group, position) ==
                    KvRow(rig, plain.sequence, group, position))
            << "group " << group << " position " << position;
      }
      EXPECT_GE(compared, group == kFull
                              ? committed
                              : std::min(committed, rig.model.config.sliding_window - 1));
    }
    // No block more than its rows need.
    const int blocks = (s.sequence.done + rig.config.block_tokens - 1) / rig.config.block_tokens;
    EXPECT_EQ(static_cast<int>(s.sequence.tables[kFull].size()), blocks);
    rig.Free(s.sequence);
    rig.Free(plain.sequence);
    EXPECT_EQ(rig.free_blocks(kFull), rig.config.blocks);
    EXPECT_EQ(rig.free_blocks(kSliding), rig.config.blocks);
  }
}

// T15 (P-21, P-23, P-24), T16 (P-26, P-27)
TEST_P(RoundTest, DraftsAndAcceptanceAreTheSameInEverySeatAloneAndAmongStrangers) {
  // Given a proposer that depends on every bit that it is handed, and is right half of the time.
  const std::vector<int32_t> prompt = RandomPrompt(rig.model.config, 13, 7);
  Plain plain = SayPlainly(rig, prompt, 20);
  rig.Free(plain.sequence);
  auto script = std::make_shared<Script>();
  (*script)[{0, 0}] = {plain.ids.begin() + prompt.size(), plain.ids.end()};
  const auto no_script = std::make_shared<Script>();
  const int vocab = rig.model.config.vocab;
  std::vector<std::vector<int32_t>> watched;  // drafts behind the watched prompt
  const auto propose = [&](std::span<const engine::DraftSlot> slots,
                           std::span<engine::Draft> drafts) {
    MakeProposer(Guess::kHash, no_script, vocab, 0)(slots, drafts);
    for (size_t i = 0; i < slots.size(); ++i) {
      if (!std::equal(slots[i].prompt.begin(), slots[i].prompt.end(), prompt.begin(),
                      prompt.end())) {
        continue;
      }
      // The hash says how many ids are right.
      std::vector<int32_t>& ids = drafts[i].ids;
      const int right = ids[0] % (static_cast<int>(ids.size()) + 1);
      for (int r = 0; r < right; ++r) {
        const size_t at = slots[i].position + 1 + r;
        if (at < plain.ids.size()) ids[r] = plain.ids[at];
      }
      watched.push_back(ids);
    }
    return 1;
  };
  RoundRig rounds(rig, propose);
  DraftedSequence alone = NewSequence(prompt, 20, 3);
  rounds.Run(alone, 6);
  EXPECT_EQ(alone.sequence.ids, plain.ids);
  rig.Free(alone.sequence);
  const std::vector<std::vector<int32_t>> drafts_alone = watched;
  int accepted = 0;
  for (const Round& round : alone.rounds) accepted += round.accepted;
  ASSERT_GT(accepted, 0);
  // When it sits in each of nine seats, beside strangers of other lengths and draft lengths.
  for (int seat = 0; seat < 9; ++seat) {
    watched.clear();
    std::vector<DraftedSequence> all;
    for (int i = 0; i < 9; ++i) {
      all.push_back(
          i == seat ? NewSequence(prompt, 20, 3)
                    : NewSequence(RandomPrompt(rig.model.config, 2 + 3 * i, 100 + i), 25, i % 4));
    }
    std::vector<DraftedSequence*> seats;
    for (DraftedSequence& s : all) seats.push_back(&s);
    rounds.Run(seats, 6);
    // Then nothing of it differs.
    EXPECT_EQ(all[seat].sequence.ids, plain.ids) << "seat " << seat;
    EXPECT_EQ(all[seat].rounds, alone.rounds) << "seat " << seat;
    EXPECT_EQ(watched, drafts_alone) << "seat " << seat;
    for (DraftedSequence& s : all) rig.Free(s.sequence);
  }
}

class RoundBorderTest : public ::testing::TestWithParam<bool> {
 protected:
  EngineRig rig = TinyRig({.vocab = 200, .layers = 4, .shared = 2}, 5,
                          {.threads = 1, .f32 = GetParam(), .blocks = 80, .max_step_rows = 128});
};

// T21, T31 (P-29)
TEST_P(RoundBorderTest, VerifyingAcrossTheChunkOfLogitsChangesNothing) {
  // Given a sequence that samples, wants log-probabilities and drafts 6 ids.
  constexpr int kDraft = 6;
  const std::vector<int32_t> prompt = {5, 190, 7, 33, 104};
  const auto sampler = [&](int max_draft) {
    DraftedSequence s = NewSequence(prompt, 12, max_draft);
    s.params = {.temperature = 0.8f, .frequency_penalty = 0.7f, .seed = 77};
    s.logprobs = {.enabled = true, .top = 5};
    return s;
  };
  DraftedSequence plain = sampler(0);
  RoundRig(rig, nullptr).Run(plain, 8);
  rig.Free(plain.sequence);
  auto script = std::make_shared<Script>();
  (*script)[{77, 0}] = plain.output;
  for (const Guess guess : {Guess::kOracle, Guess::kHalfRight}) {
    // When the rows before its own shift it over the 64-row border of the logits, row by row.
    for (int before = 64 - kDraft - 2; before <= 65; ++before) {
      RoundRig rounds(rig, MakeProposer(guess, script, rig.model.config.vocab, 3));
      std::vector<DraftedSequence> all;
      for (int i = 0; i < before; ++i) {
        all.push_back(NewSequence({i}, 6, 0));
      }
      all.push_back(sampler(kDraft));
      std::vector<DraftedSequence*> seats;
      for (DraftedSequence& s : all) seats.push_back(&s);
      for (int step = 0; step < 4; ++step) rounds.Step(seats, 8);
      // Then it draws the same.
      const DraftedSequence& s = all.back();
      ASSERT_GE(s.drawn.size(), 4u);
      for (size_t i = 0; i < s.drawn.size(); ++i) {
        EXPECT_TRUE(SameToken(s.drawn[i], plain.drawn[i])) << "row " << before << " token " << i;
      }
      if (guess == Guess::kOracle) {
        for (const Round& round : s.rounds) EXPECT_EQ(round.accepted, round.drafted);
      }
      for (DraftedSequence& each : all) rig.Free(each.sequence);
    }
  }
}

// T31: the row of a handoff when the run that it belongs to crosses the border.
TEST_P(RoundBorderTest, TheHandoffOfARunAcrossTheChunkOfLogitsIsItsOwn) {
  const std::vector<int32_t> prompt = {150, 2, 99, 61};
  Plain plain = SayPlainly(rig, prompt, 12);
  rig.Free(plain.sequence);
  for (int right = 0; right <= 4; ++right) {
    for (int before = 60; before <= 64; ++before) {
      std::vector<Seen> seen;
      RoundRig rounds(
          rig, [&](std::span<const engine::DraftSlot> slots, std::span<engine::Draft> drafts) {
            seen.push_back(Copy(slots[0]));
            for (int i = 0; i < 4; ++i) {
              const int32_t id = plain.ids[slots[0].position + 1 + i];
              drafts[0].ids.push_back(i < right ? id : (id + 1) % 200);
            }
            return 1;
          });
      std::vector<DraftedSequence> all;
      for (int i = 0; i < before; ++i) {
        all.push_back(NewSequence({i}, 4, 0));
      }
      all.push_back(NewSequence(prompt, 12, 4));
      std::vector<DraftedSequence*> seats;
      for (DraftedSequence& s : all) seats.push_back(&s);
      for (int step = 0; step < 2; ++step) rounds.Step(seats, 8);
      ASSERT_EQ(seen.size(), 2u);
      EXPECT_EQ(all.back().rounds[1], (Round{4, right})) << "row " << before;
      EXPECT_TRUE(SameBits(seen[1].handoff, plain.hidden[seen[1].position - 1]))
          << "row " << before << " right " << right;
      for (DraftedSequence& each : all) rig.Free(each.sequence);
    }
  }
}

// T26 (P-19, S0-4)
TEST_P(RoundTest, BrokenGuessesAreCutAndToldApart) {
  const std::vector<int32_t> prompt = RandomPrompt(rig.model.config, 6, 31);
  Plain plain = SayPlainly(rig, prompt, 10);
  rig.Free(plain.sequence);
  const int32_t vocab = rig.model.config.vocab;
  struct Case {
    std::vector<int32_t> ids;
    bool finite;
    size_t kept;
    bool told_finite;
  };
  const Case cases[] = {
      {{5, 6, -1, 7}, true, 2, false},
      {{vocab}, true, 0, false},
      {{std::numeric_limits<int32_t>::max(), 4}, true, 0, false},
      {{std::numeric_limits<int32_t>::min()}, true, 0, false},
      {{0, vocab - 1, 3}, true, 3, true},
      {{1, 2, 3, 4, 5, 6, 7}, true, 4, true},  // more than was asked for
      {{1, 2}, false, 2, false},               // a NaN on the way
      {{}, false, 0, false},
      {{}, true, 0, true},
  };
  for (const Case& each : cases) {
    RoundRig rounds(rig, [&](std::span<const engine::DraftSlot>, std::span<engine::Draft> drafts) {
      drafts[0] = {.ids = each.ids, .finite = each.finite};
      return 1;
    });
    DraftedSequence s = NewSequence(prompt, 10, 4);
    DraftedSequence* const one[] = {&s};
    rounds.Step(one, 8);
    EXPECT_EQ(s.draft.size(), each.kept);
    ASSERT_EQ(rounds.result.drafts.size(), 1u);
    EXPECT_EQ(rounds.result.drafts[0].finite, each.told_finite);
    rounds.Run(s, 8);
    EXPECT_EQ(s.sequence.ids, plain.ids);
    rig.Free(s.sequence);
  }
}

// T26 (P-34, P-5): rows that are not finite are nobody else's business, and no draft follows them.
TEST_P(RoundTest, AfterARowThatIsNotFiniteNothingMoreIsDrawnAndNothingGuessed) {
  // Given a draft of two right ids, and no id left to draw in the first one's row.
  const std::vector<int32_t> prompt = RandomPrompt(rig.model.config, 6, 41);
  Plain plain = SayPlainly(rig, prompt, 6);
  rig.Free(plain.sequence);
  RigSequence sequence{.ids = {plain.ids.begin(), plain.ids.begin() + prompt.size() + 1}};
  rig.Prefill(sequence, 16);
  sequence.done -= 1;  // its newest token runs again, with a draft of two right ids
  int calls = 0;
  std::array<kvcache::BlockStore*, engine::kNumKvGroups> stores = {rig.stores[0].get(),
                                                                   rig.stores[1].get()};
  auto runner =
      engine::Runner::Create(rig.model, kernels::CpuOps(*rig.backend), stores, {}, [&](auto, auto) {
        ++calls;
        return 1;
      });
  ASSERT_TRUE(runner.ok());
  const engine::SamplingParams fine = {.temperature = 0.0f};
  engine::SamplingParams broken = fine;
  for (int32_t id = 0; id < rig.model.config.vocab; ++id) broken.banned.push_back(id);
  engine::StepBatch batch;
  rig.Cover(sequence, 3);
  const int known = static_cast<int>(sequence.ids.size());
  for (int r = 0; r < 3; ++r) {
    batch.ids.push_back(plain.ids[known - 1 + r]);
    batch.positions.push_back(known - 1 + r);
    batch.samples.push_back({.row = r, .params = r == 1 ? &broken : &fine, .position = known + r});
  }
  batch.segments.push_back({.row_begin = 0,
                            .num_rows = 3,
                            .num_drafts = 2,
                            .block_table = {sequence.tables[0], sequence.tables[1]}});
  batch.drafts.push_back({.segment = 0, .max_tokens = 3, .prompt = prompt, .output = {}});
  engine::StepResult result;
  // When the step runs.
  ASSERT_TRUE((*runner)->Run(batch, result).ok());
  // Then the first row draws, the second says that it can not, the third is not looked at.
  EXPECT_EQ(result.tokens[0].id, plain.ids[known]);
  EXPECT_FALSE(result.tokens[1].finite);
  EXPECT_EQ(result.tokens[2].id, -1);
  EXPECT_TRUE(result.tokens[2].finite);
  EXPECT_EQ(calls, 0);
  EXPECT_TRUE(result.drafts[0].ids.empty());
  rig.Free(sequence);
}

std::string ParamName(const ::testing::TestParamInfo<Param>& info) {
  return TestName(std::get<0>(info.param)) + "_" + FormatsTestName(std::get<1>(info.param));
}

INSTANTIATE_TEST_SUITE_P(Formats, RoundBorderTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "f32" : "bf16"; });
INSTANTIATE_TEST_SUITE_P(Variants, RoundTest,
                         ::testing::Combine(::testing::ValuesIn(kVariants),
                                            ::testing::Values("f32", "bf16")),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(Formats, RoundTest,
                         ::testing::Values(Param("e2b-like", "q8"), Param("e4b-like", "turbo4"),
                                           Param("12b-like", "turbo3"), Param("31b-like", "turbo2"),
                                           Param("26b-like", "q8/turbo4 protect 0+2"),
                                           Param("e4b-like", "turbo2/f16")),
                         ParamName);

// T17 of turboquant 6.2: every row is read back as it was stored, rows of its own chunk included.
class ChunkedBlocksTest : public ::testing::TestWithParam<const char*> {};

TEST_P(ChunkedBlocksTest, AnyChunksOfAPromptLeaveTheSameBytes) {
  RigConfig config = {.threads = 2, .blocks = 160, .max_step_rows = 1024};
  SetNumbers(config, GetParam());
  EngineRig rig = TinyRig({.vocab = 200, .layers = 4, .window = 2000}, 11, config);
  const std::vector<int32_t> prompt = RandomPrompt(rig.model.config, 1100, 3);
  RigSequence whole{.ids = prompt};
  const std::vector<float> logits = rig.Prefill(whole, 1024);
  for (const int chunk : {64, 256}) {
    RigSequence chunked{.ids = prompt};
    EXPECT_EQ(rig.Prefill(chunked, chunk), logits);
    for (const KvGroup group : {kSliding, kFull}) {
      for (int position = 0; position < 1100; ++position) {
        ASSERT_TRUE(KvRow(rig, chunked, group, position) == KvRow(rig, whole, group, position))
            << "chunks of " << chunk << " group " << group << " position " << position;
      }
    }
    rig.Free(chunked);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, ChunkedBlocksTest,
                         ::testing::Values("bf16", "f16", "q8", "turbo4", "turbo3", "turbo2"),
                         [](const auto& info) { return FormatsTestName(info.param); });

// S3-13, T28: rows of logits are computed in pieces, so any number of them may be asked for.
TEST(RoundLimitsTest, EverySeatVerifiesTheLongestDraftInOneStep) {
  EngineRig rig = TinyRig({.vocab = 32}, 3, {.threads = 1, .blocks = 64, .max_step_rows = 340});
  auto script = std::make_shared<Script>();
  std::vector<DraftedSequence> plain, drafted;
  for (int i = 0; i < 20; ++i) {
    plain.push_back(NewSequence({i, 31 - i}, 24, 0));
    plain.back().params.seed = i;
  }
  RoundRig without(rig, nullptr);
  for (DraftedSequence& s : plain) {
    without.Run(s, 8);
    (*script)[{s.params.seed, 0}] = s.output;
    rig.Free(s.sequence);
  }
  RoundRig rounds(rig, MakeProposer(Guess::kOracle, script, 32, 1));
  for (int i = 0; i < 20; ++i) {
    drafted.push_back(NewSequence({i, 31 - i}, 24, 16));
    drafted.back().params.seed = i;
  }
  std::vector<DraftedSequence*> seats;
  for (DraftedSequence& s : drafted) seats.push_back(&s);
  rounds.Run(seats, 8);
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(SameText(drafted[i], plain[i])) << i;
    // The prompt's token, 17 in one round, and what is left.
    EXPECT_THAT(drafted[i].rounds, ElementsAre(Round{0, 0}, Round{16, 16}, Round{5, 5}));
  }
}

// Batches that break the contract of step.h are refused, not run.
TEST(RoundLimitsTest, AStepThatDoesNotSampleBehindEveryDraftedRowIsRefused) {
  EngineRig rig = TinyRig({}, 3, {.threads = 1, .blocks = 8});
  const engine::SamplingParams greedy = {.temperature = 0.0f};
  RigSequence sequence{.ids = {1, 2, 3}};
  rig.Cover(sequence, 3);
  const auto run = [&](int drafts, std::vector<int> rows, int draft_segment, int max_tokens) {
    engine::StepBatch batch = {.ids = {1, 2, 3}, .positions = {0, 1, 2}};
    batch.segments.push_back({.row_begin = 0,
                              .num_rows = 3,
                              .num_drafts = drafts,
                              .block_table = {sequence.tables[0], sequence.tables[1]}});
    for (const int row : rows) batch.samples.push_back({.row = row, .params = &greedy});
    if (max_tokens != 0) {
      batch.drafts.push_back({.segment = draft_segment, .max_tokens = max_tokens});
    }
    engine::StepResult result;
    return rig.runner->Run(batch, result).code();
  };
  EXPECT_EQ(run(2, {0, 1, 2}, 0, 0), absl::StatusCode::kOk);
  EXPECT_EQ(run(1, {1, 2}, 0, 2), absl::StatusCode::kOk);
  EXPECT_EQ(run(0, {}, 0, 0), absl::StatusCode::kOk);
  EXPECT_EQ(run(2, {1, 2}, 0, 0), absl::StatusCode::kInternal);
  EXPECT_EQ(run(2, {2}, 0, 0), absl::StatusCode::kInternal);
  EXPECT_EQ(run(3, {0, 1, 2}, 0, 0), absl::StatusCode::kInternal);
  EXPECT_EQ(run(0, {3}, 0, 0), absl::StatusCode::kInternal);
  EXPECT_EQ(run(0, {}, 0, 1), absl::StatusCode::kInternal);
  EXPECT_EQ(run(0, {2}, 1, 1), absl::StatusCode::kInternal);
  EXPECT_EQ(run(0, {2}, -1, 1), absl::StatusCode::kInternal);
  EXPECT_EQ(run(0, {2}, 0, -1), absl::StatusCode::kInternal);
  rig.Free(sequence);
}

}  // namespace
}  // namespace tandem::testing
