// The engine against Hugging Face transformers, on one random checkpoint per architecture branch.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "tests/engine/engine_rig.h"
#include "tests/engine/kv_rows.h"
#include "tests/golden/golden_data.h"

namespace tandem::testing {
namespace {

using engine::kFull;
using engine::kSliding;
using kernels::CpuIsa;

const char* const kPrompts[] = {"p0", "p1", "p2"};

// All positions of a prompt in one step.
struct PromptRun {
  std::vector<std::vector<float>> logits;  // [P][V]
  std::vector<std::vector<float>> hidden;  // [P][H]
};

PromptRun RunPrompt(EngineRig& rig, const std::vector<int32_t>& ids,
                    const engine::StepTrace& trace = nullptr) {
  RigSequence sequence{.ids = ids};
  RigRun run{.sequence = &sequence, .rows = static_cast<int>(ids.size()), .all_logits = true};
  rig.Step({&run, 1}, trace);
  rig.Free(sequence);
  return {std::move(run.logits), std::move(run.hidden)};
}

// Largest deviation of logits and final hidden rows over the prompts.
double PromptDeviation(EngineRig& rig, const GoldenData& golden) {
  double worst = 0;
  for (const std::string prompt : kPrompts) {
    const PromptRun run = RunPrompt(rig, golden.Ints(prompt + ".ids"));
    const size_t rows = run.logits.size();
    const std::vector<float> hidden = golden.Floats(prompt + ".fp32.hidden");
    const size_t dim = hidden.size() / 4;
    for (size_t r = 0; r < 4; ++r) {
      worst = std::max(worst, MaxAbsDiff(run.hidden[rows - 4 + r], {&hidden[r * dim], dim}));
    }
    if (golden.Has(prompt + ".fp32.logits")) {
      const std::vector<float> logits = golden.Floats(prompt + ".fp32.logits");
      const size_t vocab = logits.size() / rows;
      for (size_t r = 0; r < rows; ++r) {
        worst = std::max(worst, MaxAbsDiff(run.logits[r], {&logits[r * vocab], vocab}));
      }
      continue;
    }
    worst = std::max(worst,
                     MaxAbsDiff(run.logits[rows - 1], golden.Floats(prompt + ".fp32.last_logits")));
    const std::vector<int32_t> top_ids = golden.Ints(prompt + ".fp32.top_ids");
    const std::vector<float> top_logits = golden.Floats(prompt + ".fp32.top_logits");
    const size_t top = top_ids.size() / rows;
    for (size_t i = 0; i < top_ids.size(); ++i) {
      const double diff = std::abs(double{run.logits[i / top][top_ids[i]]} - double{top_logits[i]});
      worst = std::isnan(diff) ? std::numeric_limits<double>::infinity() : std::max(worst, diff);
    }
  }
  return worst;
}

class GoldenTest : public ::testing::TestWithParam<std::tuple<const char*, CpuIsa>> {
 protected:
  GoldenTest() : golden(variant()) {}
  std::string variant() const { return std::get<0>(GetParam()); }
  RigConfig config() const { return {.isa = std::get<1>(GetParam())}; }
  EngineRig Rig() const { return EngineRig(GoldenDir(variant()) + "/target", config()); }

  GoldenData golden;
};

TEST_P(GoldenTest, LogitsAndHiddenRowsOfAllPositionsEqualTransformers) {
  EngineRig rig = Rig();
  const double worst = PromptDeviation(rig, golden);
  RecordProperty("max_abs_deviation", std::to_string(worst));
  EXPECT_LE(worst, kLogitTolerance);
}

TEST_P(GoldenTest, EveryLayerOutputEqualsTransformers) {
  EngineRig rig = Rig();
  const std::vector<int32_t> ids = golden.Ints("p1.ids");
  const int last = static_cast<int>(ids.size()) - 1;
  const std::vector<float> layers = golden.Floats("p1.fp32.layer_hidden");
  const size_t hidden = rig.model.config.hidden;
  int compared = 0;
  RunPrompt(rig, ids,
            [&](std::string_view what, int layer, std::span<const int> rows,
                std::span<const float> data) {
              if (what != "embed" && what != "layer") return;
              ASSERT_EQ(rows.back(), last);
              const std::span<const float> got = data.last(hidden);
              const std::span<const float> want(&layers[(layer + 1) * hidden], hidden);
              EXPECT_LE(MaxAbsDiff(got, want), kLayerTolerance) << what << " " << layer;
              ++compared;
            });
  EXPECT_EQ(compared, rig.model.config.num_layers() + 1);
}

TEST_P(GoldenTest, PerLayerInputsEqualTransformers) {
  if (!golden.Has("p1.fp32.ple")) {
    EngineRig rig = Rig();
    EXPECT_EQ(rig.model.config.ple_width, 0);
    return;
  }
  EngineRig rig = Rig();
  int compared = 0;
  const std::vector<float> want = golden.Floats("p1.fp32.ple");
  RunPrompt(rig, golden.Ints("p1.ids"),
            [&](std::string_view what, int, std::span<const int>, std::span<const float> data) {
              if (what != "ple") return;
              EXPECT_LE(MaxAbsDiff(data.last(want.size()), want), kLayerTolerance);
              ++compared;
            });
  EXPECT_EQ(compared, 1);
}

TEST_P(GoldenTest, RouterChoosesTheSameExpertsWithTheSameWeights) {
  EngineRig rig = Rig();
  const int top_k = rig.model.config.experts_per_token;
  int compared = 0;
  std::vector<int32_t> ids;
  RunPrompt(
      rig, golden.Ints("p1.ids"),
      [&](std::string_view what, int layer, std::span<const int>, std::span<const float> data) {
        const std::span<const float> row = data.last(std::min<size_t>(top_k, data.size()));
        if (what == "expert_ids") ids.assign(row.begin(), row.end());
        if (what != "expert_weights") return;
        // Ours are in ascending expert order, the golden ones by falling weight.
        const std::vector<int32_t> want_ids = golden.Ints("p1.fp32.expert_ids");
        const std::vector<float> want = golden.Floats("p1.fp32.expert_weights");
        for (int k = 0; k < top_k; ++k) {
          const auto at = std::find(ids.begin(), ids.end(), want_ids[layer * top_k + k]);
          ASSERT_NE(at, ids.end()) << "layer " << layer << ": expert not chosen";
          EXPECT_NEAR(row[at - ids.begin()], want[layer * top_k + k], kExpertTolerance);
        }
        ++compared;
      });
  EXPECT_EQ(compared, rig.model.config.experts > 0 ? rig.model.config.num_layers() : 0);
  EXPECT_EQ(compared > 0, golden.Has("p1.fp32.expert_ids"));
}

TEST_P(GoldenTest, StoredKeysAndValuesOfTheDonorsEqualTransformers) {
  EngineRig rig = Rig();
  RigSequence sequence{.ids = golden.Ints("p1.ids")};
  RigRun run{.sequence = &sequence, .rows = static_cast<int>(sequence.ids.size())};
  rig.Step({&run, 1});
  const std::vector<int32_t> positions = golden.Ints("p1.kv.positions");
  for (const auto group : {kSliding, kFull}) {
    const int layer = rig.model.config.KvOwners(group).back();
    const engine::LayerDesc& desc = rig.model.config.layers[layer];
    const kernels::KvView view = rig.stores[group]->View(desc.kv_index);
    const std::string name = group == kSliding ? "p1.kv.sliding" : "p1.kv.full";
    for (const bool value : {false, true}) {
      const std::vector<float> want = golden.Floats(name + (value ? ".v" : ".k"));
      size_t at = 0;
      for (const int32_t position : positions) {
        const int32_t block = sequence.tables[group][position / rig.config.block_tokens];
        ASSERT_GE(block, 0);
        for (int head = 0; head < desc.num_kv_heads; ++head, at += desc.head_dim) {
          const std::vector<float> row = StoredRow(view, desc.head_dim, block, head,
                                                   position % rig.config.block_tokens, value);
          EXPECT_LE(MaxAbsDiff(row, {&want[at], size_t(desc.head_dim)}), kLayerTolerance)
              << name << (value ? " v" : " k") << " position " << position << " head " << head;
        }
      }
    }
  }
}

// Every id is compared; where the recorded margin is below twice the tolerance a different choice
// would be allowed, and the golden id is fed on.
TEST_P(GoldenTest, GreedyContinuationsEqualTransformersForAll48Tokens) {
  EngineRig rig = Rig();
  for (const std::string prompt : kPrompts) {
    const std::vector<int32_t> want = golden.Ints(prompt + ".greedy.ids");
    const std::vector<float> margin = golden.Floats(prompt + ".greedy.margin");
    RigSequence sequence{.ids = golden.Ints(prompt + ".ids")};
    std::vector<float> logits = rig.Prefill(sequence, rig.config.max_step_rows);
    ASSERT_EQ(want.size(), 48u);
    for (size_t i = 0; i < want.size(); ++i) {
      const int32_t got = ArgMax(logits, rig.model.config.generation.suppressed_ids);
      if (margin[i] >= 2 * kLogitTolerance) {
        EXPECT_EQ(got, want[i]) << prompt << " token " << i << " margin " << margin[i];
      }
      logits = rig.Decode(sequence, want[i]);
    }
    rig.Free(sequence);
  }
}

TEST_P(GoldenTest, ExactEmbeddingScaleIsAvailableForComparison) {
  engine::LoadOptions options;
  options.exact_embed_scale = true;
  EngineRig rig(GoldenDir(variant()) + "/target", config(), options);
  const PromptRun run = RunPrompt(rig, golden.Ints("p2.ids"));
  EXPECT_LE(MaxAbsDiff(run.logits.back(), golden.Floats("p2.fp32.exact_scale_last_logits")),
            kLogitTolerance);
}

TEST_P(GoldenTest, Bf16StaysWithinTwiceTransformersOwnBf16Deviation) {
  RigConfig bf16 = config();
  bf16.f32 = false;
  EngineRig rig(GoldenDir(variant()) + "/target", bf16);
  for (const std::string prompt : kPrompts) {
    const PromptRun run = RunPrompt(rig, golden.Ints(prompt + ".ids"));
    const std::vector<float>& got = run.logits.back();
    std::vector<float> want;
    if (golden.Has(prompt + ".fp32.last_logits")) {
      want = golden.Floats(prompt + ".fp32.last_logits");
    } else {
      want = golden.Floats(prompt + ".fp32.logits");
      want.erase(want.begin(), want.end() - got.size());
    }
    double squares = 0;
    for (size_t i = 0; i < got.size(); ++i) squares += std::pow(double{got[i]} - want[i], 2);
    EXPECT_LE(MaxAbsDiff(got, want), 2 * kBf16MaxAbs) << prompt;
    EXPECT_LE(std::sqrt(squares / got.size()), 2 * kBf16Rms) << prompt;
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, GoldenTest,
                         ::testing::Combine(::testing::ValuesIn(kVariants),
                                            ::testing::ValuesIn(PresentIsas())),
                         [](const auto& info) {
                           return TestName(std::get<0>(info.param)) + "_" +
                                  std::string(CpuIsaName(std::get<1>(info.param)));
                         });

// A golden value only guards what it is sensitive to: each deliberate mistake below must push some
// variant far outside the tolerance.
struct Mistake {
  const char* name;
  const char* variant;
  std::function<void(engine::Model&)> make;
};

void ScaleVector(const float* vector, int size, float factor) {
  for (int i = 0; i < size; ++i) const_cast<float*>(vector)[i] *= factor;
}

class GoldenSensitivityTest : public ::testing::TestWithParam<Mistake> {};

TEST_P(GoldenSensitivityTest, AMistakeShowsInTheGoldenValues) {
  const Mistake& mistake = GetParam();
  const GoldenData golden(mistake.variant);
  EngineRig rig(GoldenDir(mistake.variant) + "/target", {});
  ASSERT_LE(PromptDeviation(rig, golden), kLogitTolerance);
  mistake.make(rig.model);
  rig.Start();
  EXPECT_GT(PromptDeviation(rig, golden), 10 * kLogitTolerance);
}

const Mistake kMistakes[] = {
    {"WindowOneWider", "12b-like", [](engine::Model& m) { m.config.sliding_window += 1; }},
    {"WindowOneNarrower", "31b-like", [](engine::Model& m) { m.config.sliding_window -= 1; }},
    {"DonorIsTheFirstOwnerOfItsType", "e4b-like",
     [](engine::Model& m) {
       for (int i = m.config.first_shared; i < m.config.num_layers(); ++i) {
         m.config.layers[i].kv_index = 0;
       }
     }},
    {"EmbeddingScaleNotRounded", "e2b-like",
     [](engine::Model& m) { m.embed_scale = std::sqrt(float(m.config.hidden)); }},
    {"LayerScalarIgnored", "31b-like",
     [](engine::Model& m) { *const_cast<float*>(m.weights.layers[1].layer_scalar) = 1.0f; }},
    {"NormWeightPlusOne", "12b-like",
     [](engine::Model& m) {
       for (int i = 0; i < m.config.hidden; ++i) {
         const_cast<float*>(m.weights.layers[2].pre_ffn_norm)[i] += 1.0f;
       }
     }},
    {"NormEpsMissing", "e4b-like", [](engine::Model& m) { m.config.rms_eps = 0.0f; }},
    {"RopeThetaOfTheOtherType", "31b-like",
     [](engine::Model& m) {
       std::swap(m.config.rope[kSliding].theta, m.config.rope[kFull].theta);
     }},
    {"RopeTurnsEveryPairOfFullLayers", "e2b-like",
     [](engine::Model& m) { m.config.rope[kFull].partial_rotary_factor = 1.0f; }},
    {"RouterScaleWithoutHidden", "26b-like",
     [](engine::Model& m) {
       ScaleVector(m.weights.layers[0].router_scale, m.config.hidden,
                   std::sqrt(float(m.config.hidden)));
     }},
    {"ExpertScaleIgnored", "26b-like",
     [](engine::Model& m) {
       std::fill_n(const_cast<float*>(m.weights.layers[1].expert_scale), m.config.experts, 1.0f);
     }},
    {"OneExpertFewer", "26b-like", [](engine::Model& m) { m.config.experts_per_token -= 1; }},
    {"NoSoftCap", "e4b-like", [](engine::Model& m) { m.config.logit_softcap = 0.0f; }},
};

INSTANTIATE_TEST_SUITE_P(Mistakes, GoldenSensitivityTest, ::testing::ValuesIn(kMistakes),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tandem::testing
