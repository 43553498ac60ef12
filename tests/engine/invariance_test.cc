// A sequence's bits do not depend on its neighbours, its chunking, preemption or block placement.

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "tests/engine/engine_rig.h"
#include "tests/engine/kv_rows.h"

namespace tandem::testing {
namespace {

using kernels::CpuIsa;

std::vector<CpuIsa> SimdIsas() {
  std::vector<CpuIsa> isas = PresentIsas();
  isas.erase(isas.begin());  // kRef
  return isas;
}

// ids and the logits of every decode step: compared bit for bit.
struct Continuation {
  std::vector<int32_t> ids;
  std::vector<std::vector<float>> logits;
  bool operator==(const Continuation&) const = default;
};

std::vector<int32_t> RandomPrompt(const engine::ModelConfig& config, int size, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids = {config.bos_id};
  while (static_cast<int>(ids.size()) < size) ids.push_back(107 + random() % (config.vocab - 120));
  return ids;
}

// A golden variant, a level, and numbers as SetNumbers reads them.
using Param = std::tuple<const char*, CpuIsa, const char*>;

class InvarianceTest : public ::testing::TestWithParam<Param> {
 protected:
  InvarianceTest() : rig(MakeRig(2)) {}

  EngineRig MakeRig(int threads) const {
    RigConfig config{.isa = std::get<1>(GetParam()), .threads = threads, .blocks = 256};
    SetNumbers(config, std::get<2>(GetParam()));
    return EngineRig(GoldenDir(std::get<0>(GetParam())) + "/target", config);
  }

  // Past the window, so that sliding layers forget.
  int prompt_size(const EngineRig& r) const { return 2 * r.model.config.sliding_window + 5; }

  // The plain loops are two orders slower than the others: a few tokens show as much.
  int tokens() const { return std::get<1>(GetParam()) == CpuIsa::kRef ? 3 : 12; }

  // One sequence by itself: the text all others must equal.
  Continuation Alone(EngineRig& r, int chunk, uint32_t seed = 1, int size = 0) const {
    RigSequence sequence{.ids =
                             RandomPrompt(r.model.config, size > 0 ? size : prompt_size(r), seed)};
    Continuation result;
    std::vector<float> logits = r.Prefill(sequence, chunk);
    for (int i = 0; i < tokens(); ++i) {
      result.ids.push_back(ArgMax(logits));
      result.logits.push_back(logits);
      logits = r.Decode(sequence, result.ids.back());
    }
    r.Free(sequence);
    return result;
  }

  EngineRig rig;
};

TEST_P(InvarianceTest, ChunkingThePromptChangesNoBit) {
  const Continuation whole = Alone(rig, rig.config.max_step_rows);
  EXPECT_TRUE(Alone(rig, 7) == whole);
  EXPECT_TRUE(Alone(rig, 1) == whole);
}

TEST_P(InvarianceTest, FifteenStrangersInTheBatchChangeNoBit) {
  const Continuation alone = Alone(rig, rig.config.max_step_rows);
  // Sixteen sequences; strangers of other lengths join one per step, so that prompt chunks and
  // decode rows mix; the one we watch moves through the batch.
  std::vector<RigSequence> sequences(16);
  std::vector<int> turns(16);
  for (int s = 0; s < 16; ++s) {
    const int size = s == 3 ? prompt_size(rig) : 3 + 5 * s;
    sequences[s].ids = RandomPrompt(rig.model.config, size, s == 3 ? 1 : 100 + s);
  }
  Continuation watched;
  for (int step = 0; watched.ids.size() < static_cast<size_t>(tokens()); ++step) {
    ASSERT_LT(step, 500);
    std::vector<RigRun> runs;
    for (int s = 0; s <= std::min(step, 15); ++s) {
      RigSequence& sequence = sequences[(s + step) % (std::min(step, 15) + 1)];
      RigRun run{.sequence = &sequence};
      run.rows = std::min<int>(9, sequence.ids.size() - sequence.done);
      runs.push_back(run);
    }
    rig.Step(runs);
    for (RigRun& run : runs) {
      RigSequence& sequence = *run.sequence;
      if (sequence.done < static_cast<int>(sequence.ids.size())) continue;
      const int32_t id = ArgMax(run.logits.back());
      if (&sequence == &sequences[3]) {
        watched.ids.push_back(id);
        watched.logits.push_back(run.logits.back());
      }
      sequence.ids.push_back(id);
    }
  }
  EXPECT_TRUE(watched == alone);
  for (RigSequence& sequence : sequences) rig.Free(sequence);
}

TEST_P(InvarianceTest, RecomputingAfterPreemptionChangesNoBit) {
  const Continuation alone = Alone(rig, rig.config.max_step_rows);
  RigSequence sequence{.ids = RandomPrompt(rig.model.config, prompt_size(rig), 1)};
  Continuation result;
  const int every = tokens() / 3 + 1;
  std::vector<float> logits = rig.Prefill(sequence, 16);
  for (int i = 0; i < tokens(); ++i) {
    result.ids.push_back(ArgMax(logits));
    result.logits.push_back(logits);
    sequence.ids.push_back(result.ids.back());
    if (i % every == 1) rig.Free(sequence);  // prompt and generated rows run again, in chunks
    logits = rig.Prefill(sequence, 11);
  }
  rig.Free(sequence);
  EXPECT_TRUE(result == alone);
}

TEST_P(InvarianceTest, TheNumberOfThreadsChangesNoBit) {
  const Continuation two = Alone(rig, rig.config.max_step_rows);
  EngineRig one = MakeRig(1);
  EngineRig three = MakeRig(3);
  EXPECT_TRUE(Alone(one, one.config.max_step_rows) == two);
  EXPECT_TRUE(Alone(three, three.config.max_step_rows) == two);
}

TEST_P(InvarianceTest, RowsThatNobodySamplesChangeNoBit) {
  // With shared KV layers, rows without output stop early; asking for all outputs runs them all.
  RigSequence lazy{.ids = RandomPrompt(rig.model.config, prompt_size(rig), 5)};
  RigSequence eager{.ids = lazy.ids};
  RigRun runs[] = {
      {.sequence = &lazy, .rows = static_cast<int>(lazy.ids.size())},
      {.sequence = &eager, .rows = static_cast<int>(lazy.ids.size()), .all_logits = true}};
  rig.Step({&runs[0], 1});
  rig.Step({&runs[1], 1});
  EXPECT_EQ(runs[0].logits.back(), runs[1].logits.back());
  EXPECT_EQ(rig.Decode(lazy, 200), rig.Decode(eager, 200));
  rig.Free(lazy);
  rig.Free(eager);
}

TEST_P(InvarianceTest, AllBlocksComeBack) {
  const int sliding = rig.free_blocks(engine::kSliding);
  Alone(rig, 7);
  EXPECT_EQ(rig.free_blocks(engine::kSliding), sliding);
}

std::string ParamName(const ::testing::TestParamInfo<Param>& info) {
  const auto& [variant, isa, numbers] = info.param;
  return TestName(variant) + "_" + std::string(CpuIsaName(isa)) + "_" + FormatsTestName(numbers);
}

INSTANTIATE_TEST_SUITE_P(Reference, InvarianceTest,
                         ::testing::Combine(::testing::ValuesIn(kVariants),
                                            ::testing::Values(CpuIsa::kRef),
                                            ::testing::Values("f32")),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(Simd, InvarianceTest,
                         ::testing::Combine(::testing::ValuesIn(kVariants),
                                            ::testing::ValuesIn(SimdIsas()),
                                            ::testing::Values("f32", "bf16")),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(Formats, InvarianceTest, ::testing::ValuesIn(FormatSpread(SimdIsas())),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(Weights, InvarianceTest,
                         ::testing::Combine(::testing::Values("e2b-like", "26b-like"),
                                            ::testing::ValuesIn(SimdIsas()),
                                            ::testing::Values("int8 q8", "int4 bf16")),
                         ParamName);
INSTANTIATE_TEST_SUITE_P(WeightsReference, InvarianceTest,
                         ::testing::Values(Param("12b-like", CpuIsa::kRef, "int4 f32")), ParamName);
INSTANTIATE_TEST_SUITE_P(FormatsReference, InvarianceTest,
                         ::testing::Values(Param("12b-like", CpuIsa::kRef, "q8/turbo4")),
                         ParamName);

}  // namespace
}  // namespace tandem::testing
