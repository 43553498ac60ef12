// The drafter against Hugging Face transformers' assistant, on every golden pair: single steps,
// chains, whole assisted generations, and mistakes that these would show.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <limits>

#include "kernels/reference/linear_ref.h"
#include "nlohmann/json.hpp"
#include "tests/golden/assistant_rig.h"
#include "tests/golden/golden_data.h"

namespace tandem::testing {
namespace {

using engine::kFull;
using engine::kSliding;
using kernels::CpuIsa;

const char* const kPrompts[] = {"p0", "p1", "p2"};
constexpr int kSteps = 4;  // of the recorded chains

std::span<const float> RowOf(const std::vector<float>& matrix, int row, int rows) {
  const size_t dim = matrix.size() / rows;
  return std::span(matrix).subspan(row * dim, dim);
}

// The recorded chain behind a prompt.
struct GoldenChain {
  GoldenChain(const GoldenData& golden, const std::string& prompt) {
    const std::string name = prompt + ".mtp.spec.";
    position = golden.Ints(name + "position")[0];
    token_in = golden.Ints(name + "token_in");
    hidden_in = golden.Floats(name + "hidden_in");
    hidden_out = golden.Floats(name + "hidden_out");
    top_ids = golden.Ints(name + "top_ids");
    top_logits = golden.Floats(name + "top_logits");
    if (golden.Has(name + "logits")) logits = golden.Floats(name + "logits");
    if (golden.Has(name + "clusters")) {
      clusters = golden.Ints(name + "clusters");
      cluster_margin = golden.Floats(name + "cluster_margin");
    }
  }
  int tops() const { return static_cast<int>(top_ids.size()) / kSteps; }

  int position = 0;
  std::vector<int32_t> token_in, top_ids, clusters;  // [4], [4, 32], [4, top] or none
  std::vector<float> hidden_in, hidden_out, top_logits, logits, cluster_margin;
};

// Largest deviations over the steps of a chain.
struct Deviation {
  double logits = 0;
  double hidden = 0;
};

// `logits` of one step against the recorded ones. A clustered head of other clusters is a
// deviation, unless the choice was a near tie.
double LogitDeviation(const std::vector<float>& logits, const GoldenChain& golden, int step) {
  double worst = 0;
  if (!golden.logits.empty()) {
    worst = MaxAbsDiff(logits, RowOf(golden.logits, step, kSteps));
  }
  for (int i = step * golden.tops(); i < (step + 1) * golden.tops(); ++i) {
    if (golden.top_logits[i] == -std::numeric_limits<float>::infinity()) continue;
    const double diff = std::abs(double{logits[golden.top_ids[i]]} - double{golden.top_logits[i]});
    worst = std::isnan(diff) ? std::numeric_limits<double>::infinity() : std::max(worst, diff);
  }
  return worst;
}

// What `chain` showed for slot 0 in `step`, against step `golden_step`.
void Compare(const Proposal& chain, const engine::AssistantModel& model, int step,
             const GoldenChain& golden, int golden_step, Deviation& worst) {
  const std::vector<float> logits = chain.record.Logits(model, step, 0);
  if (logits.empty()) {
    worst.logits = std::numeric_limits<double>::infinity();
    return;
  }
  worst.logits = std::max(worst.logits, LogitDeviation(logits, golden, golden_step));
  worst.hidden = std::max(worst.hidden, MaxAbsDiff(chain.record.Row("post", step, 0),
                                                   RowOf(golden.hidden_out, golden_step, kSteps)));
}

class AssistantGoldenTest : public ::testing::TestWithParam<std::tuple<const char*, CpuIsa>> {
 protected:
  AssistantGoldenTest() : golden(variant()) {}
  std::string variant() const { return std::get<0>(GetParam()); }
  RigConfig config() const { return {.isa = std::get<1>(GetParam())}; }

  GoldenData golden;
};

TEST_P(AssistantGoldenTest, ChainsOfFourStepsEqualTransformers) {
  AssistantRig r(variant(), config());
  for (const std::string prompt : kPrompts) {
    SCOPED_TRACE(prompt);
    const GoldenChain want(golden, prompt);
    // Given a prompt whose rows the target ran.
    RigSequence sequence{.ids = golden.Ints(prompt + ".ids")};
    const std::vector<float> handoff = r.Fill(sequence);
    EXPECT_LE(MaxAbsDiff(handoff, RowOf(want.hidden_in, 0, kSteps)), kLogitTolerance);
    ASSERT_EQ(sequence.done, want.position);
    // When a chain drafts behind it.
    const engine::DraftSlot slot = r.Slot(sequence, handoff, want.token_in[0], kSteps + 1);
    const Proposal chain = Draft(*r.assistant, {&slot, 1});
    EXPECT_EQ(chain.steps, kSteps + 1);
    ASSERT_EQ(chain.drafts[0].ids.size(), size_t{kSteps + 1});
    // Then its guesses, logits, clusters and fed-back rows are the recorded ones.
    Deviation worst;
    for (int step = 0; step < kSteps; ++step) {
      Compare(chain, r.model, step, want, step, worst);
      EXPECT_EQ(chain.drafts[0].ids[step], want.top_ids[step * want.tops()]) << "step " << step;
      if (step > 0) {
        EXPECT_EQ(chain.drafts[0].ids[step - 1], want.token_in[step]);
      }
      if (want.clusters.empty()) continue;
      std::vector<int32_t> clusters(
          want.clusters.begin() + step * r.model.config.clusters_per_token,
          want.clusters.begin() + (step + 1) * r.model.config.clusters_per_token);
      std::sort(clusters.begin(), clusters.end());
      EXPECT_GT(want.cluster_margin[step], 2 * kLogitTolerance);
      EXPECT_EQ(chain.record.Clusters(step, 0), clusters) << "step " << step;
    }
    EXPECT_LE(worst.logits, kLogitTolerance);
    EXPECT_LE(worst.hidden, kLogitTolerance);
    r.rig.Free(sequence);
  }
}

TEST_P(AssistantGoldenTest, Bf16StaysWithinTwiceTransformersOwnBf16Deviation) {
  RigConfig bf16 = config();
  bf16.f32 = false;
  AssistantRig r(variant(), bf16);
  int compared = 0;
  for (const std::string prompt : kPrompts) {
    const GoldenChain want(golden, prompt);
    RigSequence sequence{.ids = golden.Ints(prompt + ".ids")};
    r.Fill(sequence);
    for (int step = 0; step < kSteps; ++step) {
      // Given what the recorded chain was fed in this step.
      const std::span<const float> handoff = RowOf(want.hidden_in, step, kSteps);
      const engine::DraftSlot slot = r.Slot(sequence, handoff, want.token_in[step], 1);
      // When one step runs with bf16 operands and K/V.
      const Proposal chain = Draft(*r.assistant, {&slot, 1});
      // Then its largest logits are near; a cluster at the edge of the choice may be another.
      const std::vector<float> logits = chain.record.Logits(r.model, 0, 0);
      double squares = 0;
      int near = 0;
      for (int i = step * want.tops(); i < (step + 1) * want.tops(); ++i) {
        const float got = logits[want.top_ids[i]];
        if (!std::isfinite(got)) continue;
        EXPECT_NEAR(got, want.top_logits[i], 2 * kBf16MaxAbs) << prompt << " step " << step;
        squares += std::pow(double{got} - want.top_logits[i], 2);
        ++near;
      }
      EXPECT_GE(near, want.tops() / 2);
      EXPECT_LE(std::sqrt(squares / std::max(1, near)), 2 * kBf16Rms) << prompt << " step " << step;
      compared += near;
    }
    r.rig.Free(sequence);
  }
  EXPECT_GT(compared, 300);
}

struct Round {
  std::vector<int32_t> drafts;
  int accepted = 0;
};

struct Generation {
  std::vector<int32_t> ids;
  std::vector<Round> rounds;
};

// `count` greedy tokens behind a prompt, `k` drafts a round, by the runner as it serves: its
// verification, its handoff rows, its blocks.
Generation Assist(AssistantRig& r, const std::vector<int32_t>& prompt, int k, int count) {
  engine::Assistant* const assistant = r.assistant.get();
  auto runner = engine::Runner::Create(
      r.rig.model, kernels::CpuOps(*r.rig.backend), r.stores(), {.max_step_rows = 256},
      [assistant](std::span<const engine::DraftSlot> slots, std::span<engine::Draft> drafts) {
        return assistant->Propose(slots, drafts);
      });
  EXPECT_TRUE(runner.ok()) << runner.status();
  const engine::SamplingParams greedy{.temperature = 0.0f};
  Generation generation;
  RigSequence sequence;
  std::vector<int32_t> feed = prompt, drafts;
  const auto steps_left = [&] { return std::min<int>(k, count - generation.ids.size() - 1); };
  while (static_cast<int>(generation.ids.size()) < count) {
    engine::StepBatch batch;
    const int rows = static_cast<int>(feed.size());
    r.rig.Cover(sequence, rows);
    engine::Segment segment{.row_begin = 0,
                            .num_rows = rows,
                            .num_drafts = static_cast<int>(drafts.size()),
                            .block_table = {}};
    for (const auto group : {kSliding, kFull}) {
      segment.block_table[group] = sequence.tables[group];
    }
    batch.segments = {segment};
    batch.ids = feed;
    for (int t = 0; t < rows; ++t) batch.positions.push_back(sequence.done + t);
    for (int t = rows - 1 - segment.num_drafts; t < rows; ++t) {
      batch.samples.push_back(
          {.row = t, .params = &greedy, .position = sequence.done + t + 1, .drafted = {}});
    }
    batch.drafts = {{.segment = 0, .max_tokens = k, .prompt = prompt, .output = {}}};
    engine::StepResult result;
    const absl::Status status = (*runner)->Run(batch, result);
    EXPECT_TRUE(status.ok()) << status;
    int drawn = 0;
    for (const engine::SampledToken& token : result.tokens) {
      if (token.id < 0) break;
      generation.ids.push_back(token.id);
      ++drawn;
    }
    if (drawn == 0) break;
    if (sequence.done > 0) generation.rounds.push_back({drafts, drawn - 1});
    sequence.done += rows - segment.num_drafts + drawn - 1;
    r.rig.Retire(sequence);
    r.rig.Cut(sequence);
    // The draft was asked for before it was known how many tokens it would follow.
    drafts = result.drafts[0].ids;
    drafts.resize(std::clamp<int>(steps_left(), 0, static_cast<int>(drafts.size())));
    feed = {generation.ids.back()};
    feed.insert(feed.end(), drafts.begin(), drafts.end());
  }
  r.rig.Free(sequence);
  return generation;
}

TEST_P(AssistantGoldenTest, AssistedGenerationEqualsTransformersRoundByRound) {
  std::ifstream file(GoldenDir(variant()) + "/golden.json");
  const nlohmann::json assisted = nlohmann::json::parse(file)["assisted"];
  AssistantRig r(variant(), config());
  int rounds = 0;
  for (const std::string prompt : kPrompts) {
    const std::vector<int32_t> greedy = golden.Ints(prompt + ".greedy.ids");
    for (const auto& [name, run] : assisted.at(prompt).items()) {
      SCOPED_TRACE(prompt + " " + name);
      const int k = std::stoi(name.substr(1));
      const Generation got =
          Assist(r, golden.Ints(prompt + ".ids"), k, static_cast<int>(greedy.size()));
      EXPECT_EQ(got.ids, greedy);
      ASSERT_EQ(got.rounds.size(), run.at("spec").size());
      for (size_t i = 0; i < got.rounds.size(); ++i) {
        const nlohmann::json& want = run.at("spec")[i];
        EXPECT_EQ(got.rounds[i].drafts, want.at("drafts").get<std::vector<int32_t>>()) << i;
        EXPECT_EQ(got.rounds[i].accepted, want.at("accepted").get<int>()) << "round " << i;
        ++rounds;
      }
    }
  }
  EXPECT_GT(rounds, 60);
}

INSTANTIATE_TEST_SUITE_P(Variants, AssistantGoldenTest,
                         ::testing::Combine(::testing::ValuesIn(kVariants),
                                            ::testing::ValuesIn(PresentIsas())),
                         [](const auto& info) {
                           return TestName(std::get<0>(info.param)) + "_" +
                                  std::string(CpuIsaName(std::get<1>(info.param)));
                         });

// A golden value only guards what it is sensitive to: each deliberate mistake in a draft step must
// push a chain well outside the tolerance. (The two forms of GELU differ by 5e-4 at most.)
struct Mistake {
  const char* name;
  const char* variant;
  // Changes the drafter, or the row that it is handed; `raw_row` is that row before the final norm.
  std::function<void(AssistantRig& r, std::vector<float>& handoff,
                     const std::vector<float>& raw_row)>
      make;
};

class AssistantSensitivityTest : public ::testing::TestWithParam<Mistake> {};

TEST_P(AssistantSensitivityTest, AMistakeShowsInTheGoldenValues) {
  const Mistake& mistake = GetParam();
  const GoldenData golden(mistake.variant);
  const GoldenChain want(golden, "p1");
  // Given K/V rows and a handoff row of a target without fault.
  AssistantRig r(mistake.variant);
  RigSequence sequence{.ids = golden.Ints("p1.ids")};
  RigRun run{.sequence = &sequence, .rows = static_cast<int>(sequence.ids.size())};
  std::vector<float> raw_row;
  r.rig.Step({&run, 1}, [&](std::string_view what, int, std::span<const int> rows,
                            std::span<const float> data) {
    if (what == "layer") raw_row.assign(data.end() - data.size() / rows.size(), data.end());
  });
  std::vector<float> handoff = run.hidden.back();
  const auto deviation = [&] {
    const engine::DraftSlot slot = r.Slot(sequence, handoff, want.token_in[0], 2);
    const Proposal chain = Draft(*r.assistant, {&slot, 1});
    Deviation worst;
    Compare(chain, r.model, 0, want, 0, worst);
    return worst;
  };
  EXPECT_LE(deviation().logits, kLogitTolerance);
  EXPECT_LE(deviation().hidden, kLogitTolerance);
  // When the drafter makes the mistake, then neither its logits nor its row would pass.
  mistake.make(r, handoff, raw_row);
  r.Create();
  EXPECT_GT(deviation().logits, 2 * kLogitTolerance);
  EXPECT_GT(deviation().hidden, 2 * kLogitTolerance);
}

// gelu by the error function in place of its tanh approximation.
void ErfGeglu(void*, const kernels::LinearGegluArgs& args) {
  for (int t = 0; t < args.rows; ++t) {
    std::vector<float> products(args.w.out);
    kernels::LinearReference({.x = kernels::AsF32(args.x) + t * args.x_stride,
                              .x_stride = args.x_stride,
                              .w = args.w,
                              .y = products.data(),
                              .y_stride = args.w.out,
                              .rows = 1},
                             kernels::Operands::kF32);
    for (int i = 0; i < args.width; ++i) {
      const int gate =
          i / kernels::kTileOutputs * 2 * kernels::kTileOutputs + i % kernels::kTileOutputs;
      const double x = products[gate];
      kernels::AsF32(args.y)[t * args.y_stride + i] = static_cast<float>(
          0.5 * x * (1 + std::erf(x / std::sqrt(2.0))) * products[gate + kernels::kTileOutputs]);
    }
  }
}

// Exchanges the halves of the inputs of W_pre.
void SwapHalves(const kernels::WeightView& w) {
  auto* data = const_cast<kernels::Bf16*>(w.data);
  const size_t pairs = w.in / 2;
  constexpr size_t kLine = 2 * kernels::kTileOutputs;
  for (size_t tile = 0; tile < kernels::PackedTiles(w.out); ++tile) {
    kernels::Bf16* lines = data + tile * pairs * kLine;
    std::swap_ranges(lines, lines + pairs / 2 * kLine, lines + pairs / 2 * kLine);
  }
}

const Mistake kMistakes[] = {
    {"HandoffBeforeTheEmbedding", "12b-like",
     [](AssistantRig& r, auto&, auto&) { SwapHalves(r.model.weights.pre); }},
    {"EmbeddingNotScaled", "31b-like",
     [](AssistantRig& r, auto&, auto&) { r.rig.model.embed_scale = 1.0f; }},
    {"LayerScalarMissing", "26b-like",
     [](AssistantRig& r, auto&, auto&) {
       *const_cast<float*>(r.model.weights.layers[1].layer_scalar) = 1.0f;
     }},
    {"FullLayerTurnsEveryPair", "e2b-like",
     [](AssistantRig& r, auto&, auto&) {
       r.rig.model.config.rope[kFull].partial_rotary_factor = 1.0f;
       r.model.config.rope[kFull].partial_rotary_factor = 1.0f;
     }},
    {"GeluByTheErrorFunction", "e4b-like",
     [](AssistantRig& r, auto&, auto&) { r.ops.linear_geglu = ErfGeglu; }},
    {"NormWeightPlusOne", "e4b-like",
     [](AssistantRig& r, auto&, auto&) {
       for (int i = 0; i < r.model.config.hidden; ++i) {
         const_cast<float*>(r.model.weights.layers[2].pre_ffn_norm)[i] += 1.0f;
       }
     }},
    {"HandoffBeforeTheFinalNorm", "31b-like",
     [](AssistantRig&, std::vector<float>& handoff, const std::vector<float>& raw_row) {
       handoff = raw_row;
     }},
    {"HandoffScaledAsAnEmbedding", "e2b-like",
     [](AssistantRig& r, std::vector<float>& handoff, auto&) {
       for (float& value : handoff) value *= r.rig.model.embed_scale;
     }},
    {"WindowOneWider", "12b-like",
     [](AssistantRig& r, auto&, auto&) { r.rig.model.config.sliding_window += 1; }},
    {"QueryNormMissing", "26b-like",
     [](AssistantRig& r, auto&, auto&) {
       std::fill_n(const_cast<float*>(r.model.weights.layers[3].q_norm),
                   r.model.config.layers[3].head_dim, 1.0f);
     }},
};

INSTANTIATE_TEST_SUITE_P(Mistakes, AssistantSensitivityTest, ::testing::ValuesIn(kMistakes),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace tandem::testing
