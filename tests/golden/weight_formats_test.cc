// Golden targets and their assistants with weights of int8 and int4: how far logits move, that
// either model has a format of its own (T30 of mtp.md 5.3), and that every scale counts.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "engine/assistant_weights.h"
#include "kernels/weight_codes.h"
#include "tests/golden/assistant_rig.h"

namespace tandem::testing {
namespace {

using kernels::F16;
using kernels::WeightFormat;
using kernels::WeightView;

constexpr WeightFormat kFormats[] = {WeightFormat::kBf16, WeightFormat::kInt8, WeightFormat::kInt4};

RigConfig Config(WeightFormat weights) { return {.weights = weights, .poison = false}; }

std::vector<int32_t> Prompt(const engine::ModelConfig& config) {
  std::vector<int32_t> ids = {config.bos_id};
  for (int i = 1; i < 40; ++i) ids.push_back(107 + i * 37 % (config.vocab - 120));
  return ids;
}

// The last row's logits behind the prompt.
std::vector<float> Logits(EngineRig& rig) {
  RigSequence sequence{.ids = Prompt(rig.model.config)};
  const std::vector<float> logits = rig.Prefill(sequence, 64);
  rig.Free(sequence);
  return logits;
}

// ||a - b|| / ||b||
double Distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < b.size(); ++i) {
    if (!std::isfinite(b[i])) continue;  // of no cluster
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

// Doubles the scales of every other output, which no norm behind the product makes up for.
void Disturb(const WeightView& w) {
  F16* const scales = const_cast<F16*>(w.scales);
  for (size_t i = 0; i < kernels::PackedCodeScales(w.out, w.in); ++i) {
    if (i % 2 == 0) scales[i] = kernels::ToF16(2.0f * ToFloat(scales[i]));  // may be subnormal
  }
}

std::vector<WeightView> CodedMatrices(const engine::LayerWeights& layer) {
  std::vector<WeightView> views;
  for (const WeightView& view : {layer.qkv, layer.o, layer.gate_up, layer.down, layer.ple_gate,
                                 layer.ple_up, layer.router}) {
    if (view.scales != nullptr) views.push_back(view);
  }
  return views;
}

class WeightFormatsTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Variants, WeightFormatsTest, ::testing::ValuesIn(kVariants),
                         [](const auto& info) { return TestName(info.param); });

TEST_P(WeightFormatsTest, LogitsMoveByWhatTheFormatLoses) {
  const std::string dir = GoldenDir(GetParam()) + "/target";
  EngineRig bf16(dir, Config(WeightFormat::kBf16));
  EngineRig int8(dir, Config(WeightFormat::kInt8));
  EngineRig int4(dir, Config(WeightFormat::kInt4));
  const std::vector<float> want = Logits(bf16);
  const double eight = Distance(Logits(int8), want), four = Distance(Logits(int4), want);
  RecordProperty("int8", std::to_string(eight));
  RecordProperty("int4", std::to_string(four));
  EXPECT_GT(eight, 1e-4);
  EXPECT_LT(eight, 0.15);  // an expert may be another
  EXPECT_LT(four, 0.8);
  EXPECT_LT(3 * eight, four);
}

TEST_P(WeightFormatsTest, WhatIsSensitiveKeepsEightBitsAndWhatChoosesSixteen) {
  const EngineRig int4(GoldenDir(GetParam()) + "/target", Config(WeightFormat::kInt4));
  const engine::Weights& weights = int4.model.weights;
  EXPECT_EQ(weights.embed.format, WeightFormat::kInt8);
  EXPECT_EQ(weights.head.format, WeightFormat::kInt8);
  for (const engine::LayerWeights& layer : weights.layers) {
    for (const WeightView& bulk : {layer.qkv, layer.o, layer.gate_up, layer.down}) {
      EXPECT_EQ(bulk.format, WeightFormat::kInt4);
    }
    for (const WeightView& expert : layer.expert_down) {
      EXPECT_EQ(expert.format, WeightFormat::kInt4);
    }
    EXPECT_EQ(layer.router.format, WeightFormat::kBf16);
    if (layer.ple_gate.out > 0) {
      EXPECT_EQ(layer.ple_gate.format, WeightFormat::kInt8);
      EXPECT_EQ(layer.ple_up.format, WeightFormat::kInt8);
      EXPECT_EQ(weights.ple_context.format, WeightFormat::kInt8);
    }
  }
}

TEST_P(WeightFormatsTest, EveryScaleOfTheTargetCounts) {
  EngineRig rig(GoldenDir(GetParam()) + "/target", Config(WeightFormat::kInt4));
  const engine::Weights& weights = rig.model.weights;
  std::vector<WeightView> matrices = {weights.embed};
  if (weights.ple_context.scales != nullptr) matrices.push_back(weights.ple_context);
  for (const engine::LayerWeights& layer : weights.layers) {
    for (const WeightView& matrix : CodedMatrices(layer)) matrices.push_back(matrix);
    // Of the experts, those that some row chooses.
    if (!layer.expert_down.empty()) {
      EXPECT_NE(layer.expert_gate_up[0].scales, nullptr);
      EXPECT_NE(layer.expert_down[0].scales, nullptr);
    }
  }
  std::vector<float> before = Logits(rig);
  for (size_t i = 0; i < matrices.size(); ++i) {
    Disturb(matrices[i]);
    std::vector<float> after = Logits(rig);
    EXPECT_GT(Distance(after, before), 1e-4) << "matrix " << i;
    before = std::move(after);
  }
}

// T30
TEST_P(WeightFormatsTest, TargetAndAssistantHaveFormatsOfTheirOwn) {
  const std::string dir = GoldenDir(GetParam()) + "/assistant";
  for (const WeightFormat of_target : kFormats) {
    AssistantRig rig(GetParam(), Config(of_target));
    RigSequence sequence{.ids = Prompt(rig.rig.model.config)};
    const std::vector<float> handoff = rig.Fill(sequence);
    std::vector<float> whole;  // handoff behind the first guess with an assistant in bf16
    for (const WeightFormat of_assistant : kFormats) {
      absl::StatusOr<engine::AssistantModel> model =
          engine::LoadAssistant(dir, rig.rig.model.config, rig.ops, nullptr, of_assistant);
      ASSERT_TRUE(model.ok()) << model.status();
      rig.assistant = nullptr;
      rig.model = *std::move(model);
      rig.Create();
      EXPECT_EQ(rig.rig.model.weights.layers[0].o.format, of_target);
      EXPECT_EQ(rig.model.weights.layers[0].o.format, of_assistant);
      const engine::DraftSlot slot = rig.Slot(sequence, handoff, 200, 3);
      const Proposal proposal = Draft(*rig.assistant, {&slot, 1});
      ASSERT_EQ(proposal.drafts[0].ids.size(), 3u);
      const std::vector<float> state = proposal.record.Row("post", 0, 0);
      ASSERT_FALSE(state.empty());
      if (of_assistant == WeightFormat::kBf16) whole = state;
      const double moved = Distance(state, whole);
      if (of_assistant == WeightFormat::kBf16) {
        EXPECT_EQ(moved, 0.0);
      } else {
        EXPECT_GT(moved, 0.0);
        EXPECT_LT(moved, of_assistant == WeightFormat::kInt8 ? 0.1 : 0.8);
      }
    }
  }
}

}  // namespace
}  // namespace tandem::testing
