// Targets and drafters over KV blocks with codes, against the same forward over f32 blocks into
// which every row goes rounded as its format rounds it (Simulated, kv_rows.h): T17 of mtp.md 5.3,
// T15 and T18 of turboquant 6.2, and its known failures (4.6).
//
// The two ways share no rotation, packing or scale in attention, so that a mistake in one of these
// shows. They differ in the order of f32 additions, and where V has a scale by the rounding of its
// weights to 16 bits. Either can turn a value at the border of two codes the other way, in a row or
// in a query, which is a step of the format in one of some hundred coordinates.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <utility>

#include "kernels/kv_row.h"
#include "kernels/reference/kv_row_ref.h"
#include "tests/engine/kv_rows.h"
#include "tests/golden/assistant_rig.h"
#include "tests/golden/golden_data.h"

namespace tandem::testing {
namespace {

using engine::kFull;
using engine::kSliding;
using engine::KvGroup;
using kernels::CpuIsa;

using Param = std::tuple<const char*, CpuIsa, const char*>;

// Of what the format changes at all, so much may be such steps: random checkpoints make much of
// little.
constexpr double kShare = 0.5;

std::array<kvcache::BlockStore*, engine::kNumKvGroups> Stores(const EngineRig& rig) {
  return {rig.stores[kSliding].get(), rig.stores[kFull].get()};
}

// The formats of `from`, by the bases of the views of `exact`, whose blocks are f32.
std::vector<std::pair<const std::byte*, kvcache::KvPair>> FormatsByView(const EngineRig& from,
                                                                        const EngineRig& exact) {
  std::vector<std::pair<const std::byte*, kvcache::KvPair>> formats;
  for (const KvGroup group : {kSliding, kFull}) {
    const auto& layers = from.stores[group]->layout().layers;
    for (size_t i = 0; i < layers.size(); ++i) {
      formats.push_back({exact.stores[group]->View(static_cast<int>(i)).base,
                         kvcache::KvPair{layers[i].k, layers[i].v}});
    }
  }
  return formats;
}

// Logits of all positions of a prompt, in two chunks and then row by row.
std::vector<std::vector<float>> Logits(EngineRig& rig, const kernels::Ops& ops,
                                       const std::vector<int32_t>& ids) {
  auto runner = engine::Runner::Create(rig.model, ops, Stores(rig), {.max_step_rows = 256});
  EXPECT_TRUE(runner.ok()) << runner.status();
  std::swap(rig.runner, *runner);
  std::vector<std::vector<float>> logits;
  RigSequence sequence{.ids = ids};
  const int size = static_cast<int>(ids.size());
  while (sequence.done < size) {
    const int rows = sequence.done + 8 < size ? std::max(1, (size - sequence.done) / 2) : 1;
    RigRun run{.sequence = &sequence, .rows = rows, .all_logits = true};
    rig.Step({&run, 1});
    logits.insert(logits.end(), run.logits.begin(), run.logits.end());
  }
  rig.Free(sequence);
  std::swap(rig.runner, *runner);
  return logits;
}

// Of the largest differences in each row of finite values, the median and the worst: a clustered
// head gives no logit to most tokens.
struct Deviation {
  double median = 0;
  double worst = 0;
};
Deviation Deviate(const std::vector<std::vector<float>>& a,
                  const std::vector<std::vector<float>>& b) {
  std::vector<double> rows;
  for (size_t r = 0; r < a.size(); ++r) {
    std::vector<float> one, other;
    for (size_t id = 0; id < a[r].size(); ++id) {
      if (!std::isfinite(a[r][id]) || !std::isfinite(b[r][id])) continue;
      one.push_back(a[r][id]);
      other.push_back(b[r][id]);
    }
    rows.push_back(one.size() < 20 ? std::numeric_limits<double>::infinity()
                                   : MaxAbsDiff(one, other));
  }
  std::sort(rows.begin(), rows.end());
  return {rows[rows.size() / 2], rows.back()};
}

class KvFormatsTest : public ::testing::TestWithParam<Param> {
 protected:
  KvFormatsTest() : golden(variant()) {}
  std::string variant() const { return std::get<0>(GetParam()); }
  RigConfig config() const {
    return {.isa = std::get<1>(GetParam()), .kv = FormatsOf(std::get<2>(GetParam()))};
  }
  RigConfig exact_config() const { return {.isa = std::get<1>(GetParam())}; }

  GoldenData golden;
};

TEST_P(KvFormatsTest, LogitsEqualThoseOverExactBlocksWithRowsRoundedAsTheFormatDoes) {
  EngineRig rig(GoldenDir(variant()) + "/target", config());
  EngineRig exact(GoldenDir(variant()) + "/target", exact_config());
  for (const std::string prompt : {"p0", "p1"}) {
    const std::vector<int32_t> ids = golden.Ints(prompt + ".ids");
    const auto got = Logits(rig, kernels::CpuOps(*rig.backend), ids);
    const auto want =
        Logits(exact, Simulated(kernels::CpuOps(*exact.backend), FormatsByView(rig, exact)), ids);
    const auto unrounded = Logits(exact, kernels::CpuOps(*exact.backend), ids);
    ASSERT_EQ(got.size(), ids.size());
    const double rounding = Deviate(want, unrounded).median;
    const Deviation deviation = Deviate(got, want);
    RecordProperty(prompt + "_format", std::to_string(rounding));
    RecordProperty(prompt + "_deviation", std::to_string(deviation.median));
    EXPECT_GT(rounding, 0);
    EXPECT_LE(deviation.median, kShare * rounding + kLogitTolerance) << prompt;
  }
}

// A sequence whose rows are stored, and what a draft behind it starts from.
struct Seated {
  RigSequence sequence;
  std::vector<float> handoff;
};

// Behind `length` rows, one step of drafts for some tokens: logits by token.
std::vector<std::vector<float>> DraftLogits(AssistantRig& r, const Seated& seated) {
  std::vector<std::vector<float>> logits;
  for (const int32_t token : {3, 150, 321, 500, 777}) {
    const engine::DraftSlot slot = r.Slot(seated.sequence, seated.handoff, token, 1);
    logits.push_back(Draft(*r.assistant, {&slot, 1}).record.Logits(r.model, 0, 0));
  }
  return logits;
}

// The values that the blocks of `from` hold of the sequence, in f32 at the same places of `to`.
void CopyDequantised(const EngineRig& from, EngineRig& to, const RigSequence& sequence) {
  for (const KvGroup group : {kSliding, kFull}) {
    for (const int owner : from.model.config.KvOwners(group)) {
      const engine::LayerDesc& layer = from.model.config.layers[owner];
      const kernels::KvView source = from.stores[group]->View(layer.kv_index);
      const kernels::KvView target = to.stores[group]->View(layer.kv_index);
      for (int position = 0; position < sequence.done; ++position) {
        const int32_t block = sequence.tables[group][position / from.config.block_tokens];
        const int cell = position % from.config.block_tokens;
        if (block < 0) continue;
        for (int head = 0; head < layer.num_kv_heads; ++head) {
          for (const bool value : {false, true}) {
            const std::vector<float> row =
                StoredRow(source, layer.head_dim, block, head, cell, value);
            const kernels::KvRow to_row =
                value ? kernels::VRowAt(target, block, head, cell, layer.head_dim)
                      : kernels::KRowAt(target, block, head, cell, layer.head_dim);
            std::copy(row.begin(), row.end(), reinterpret_cast<float*>(to_row.codes));
          }
        }
      }
    }
  }
}

Seated Seat(AssistantRig& r, int length) {
  std::mt19937 random(7);
  Seated seated;
  for (int i = 0; i < length; ++i) {
    seated.sequence.ids.push_back(107 + static_cast<int32_t>(random() % 800));
  }
  seated.handoff = r.Fill(seated.sequence);
  return seated;
}

// Of a drafter's logits, which are up to 30: most, and the worst.
constexpr double kDraftTolerance = 0.05;
constexpr double kDraftStep = 0.5;

TEST_P(KvFormatsTest, DraftsEqualThoseFromADequantisedCopyThatIsNotRotated) {
  AssistantRig r(variant(), config());
  AssistantRig copy(variant(), exact_config());
  copy.ops = Simulated(copy.ops, FormatsByView(r.rig, copy.rig));
  copy.Create();
  for (const int length : {5, 33, 90}) {
    const Seated seated = Seat(r, length);
    CopyDequantised(r.rig, copy.rig, seated.sequence);
    const Deviation deviation = Deviate(DraftLogits(r, seated), DraftLogits(copy, seated));
    RecordProperty("median_" + std::to_string(length), std::to_string(deviation.median));
    RecordProperty("worst_" + std::to_string(length), std::to_string(deviation.worst));
    EXPECT_LE(deviation.median, kDraftTolerance) << length << " rows";
    EXPECT_LE(deviation.worst, kDraftStep) << length << " rows";
    RigSequence sequence = seated.sequence;
    r.rig.Free(sequence);
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, KvFormatsTest,
                         ::testing::ValuesIn(FormatSpread({kernels::BestCpuIsa()})),
                         [](const auto& info) {
                           return TestName(std::get<0>(info.param)) + "_" +
                                  FormatsTestName(std::get<2>(info.param));
                         });

// What these tests are there to find, done on purpose.
struct Mistake {
  const char* name;
  const char* formats;
  std::function<void(kernels::AttentionArgs& args, std::vector<float>& q)> before;
  std::function<void(const kernels::AttentionArgs& args)> after;
};

int Rows(const kernels::AttentionArgs& args) {
  int rows = 0;
  for (const auto& segment : args.segments) {
    rows = std::max(rows, segment.row_begin + segment.num_rows);
  }
  return rows;
}

// Undoes beforehand what attention does to queries with K rows that are rotated.
void LeaveTheQueryUnrotated(kernels::AttentionArgs& args, std::vector<float>& q) {
  const int width = args.num_q_heads * args.head_dim;
  for (int t = 0; t < Rows(args); ++t) {
    for (int head = 0; head < args.num_q_heads; ++head) {
      q.insert(q.end(), args.q + t * args.q_stride + head * args.head_dim,
               args.q + t * args.q_stride + (head + 1) * args.head_dim);
      float* at = q.data() + q.size() - args.head_dim;
      kernels::UnrotateReference(at, args.head_dim, at);
    }
  }
  args.q = q.data();
  args.q_stride = width;
}

void LeaveTheOutputRotated(const kernels::AttentionArgs& args) {
  const float inverse_sqrt = 1.0f / std::sqrt(static_cast<float>(args.head_dim));
  for (int i = 0; i < Rows(args) * args.num_q_heads; ++i) {
    float* at = kernels::AsF32(args.out) + static_cast<int64_t>(i) * args.head_dim;
    kernels::RotateReference(at, args.head_dim, at);
    for (int d = 0; d < args.head_dim; ++d) at[d] *= inverse_sqrt;
  }
}

const Mistake kMistakes[] = {
    {"QueryNotRotated", "q8/bf16", LeaveTheQueryUnrotated, nullptr},
    {"OutputNotRotatedBack", "bf16/turbo4", nullptr, LeaveTheOutputRotated},
    {"NeitherOfThem", "turbo4", LeaveTheQueryUnrotated, LeaveTheOutputRotated},
    {"ScalesOfTheNextRow", "q8",
     [](kernels::AttentionArgs& args, std::vector<float>&) { args.kv.k_scale_offset += 2; },
     nullptr},
    {"ScalesOfTheOtherSide", "q8",
     [](kernels::AttentionArgs& args, std::vector<float>&) {
       std::swap(args.kv.k_scale_offset, args.kv.v_scale_offset);
     },
     nullptr},
    {"ValuesForKeys", "turbo4",
     [](kernels::AttentionArgs& args, std::vector<float>&) { args.kv.v_offset = 0; }, nullptr},
    {"FormatOfTheKeysForValues", "turbo4/turbo3",
     [](kernels::AttentionArgs& args, std::vector<float>&) { args.kv.v_format = args.kv.k_format; },
     nullptr},
};

const Mistake* g_mistake = nullptr;
const kernels::Ops* g_inner = nullptr;

void MistakenAttention(void* backend, const kernels::AttentionArgs& args) {
  kernels::AttentionArgs mistaken = args;
  std::vector<float> q;
  if (g_mistake->before) g_mistake->before(mistaken, q);
  g_inner->attention(backend, mistaken);
  if (g_mistake->after) g_mistake->after(mistaken);
}

class KvMistakeTest : public ::testing::TestWithParam<Mistake> {};

TEST_P(KvMistakeTest, ShowsInTargetAndDrafter) {
  const std::string variant = "e2b-like";
  const RigConfig config = {.kv = FormatsOf(GetParam().formats)};
  AssistantRig r(variant, config);
  AssistantRig copy(variant, {});
  const kernels::Ops exact_ops = copy.ops;
  const auto formats = FormatsByView(r.rig, copy.rig);
  // Given the logits of the target, and those of its drafter behind rows without fault.
  const std::vector<int32_t> ids = GoldenData(variant).Ints("p1.ids");
  const auto exact = Logits(copy.rig, exact_ops, ids);
  copy.ops = Simulated(exact_ops, formats);
  const auto want = Logits(copy.rig, copy.ops, ids);
  copy.Create();
  const Seated seated = Seat(r, 40);
  CopyDequantised(r.rig, copy.rig, seated.sequence);
  const auto want_drafts = DraftLogits(copy, seated);
  const kernels::Ops inner = r.ops;
  g_inner = &inner;
  g_mistake = &GetParam();
  // When attention makes the mistake, then neither would pass.
  r.ops.attention = MistakenAttention;
  const Deviation target = Deviate(Logits(r.rig, r.ops, ids), want);
  EXPECT_GT(target.median, 2 * (kShare * Deviate(want, exact).median + kLogitTolerance));
  r.Create();
  const Deviation drafter = Deviate(DraftLogits(r, seated), want_drafts);
  EXPECT_GT(drafter.median, 10 * kDraftTolerance);
  RecordProperty("target", std::to_string(target.median));
  RecordProperty("drafter", std::to_string(drafter.median));
}

INSTANTIATE_TEST_SUITE_P(Mistakes, KvMistakeTest, ::testing::ValuesIn(kMistakes),
                         [](const auto& info) { return std::string(info.param.name); });

// The noise of eight bits a value, 5e-5 of a row's energy, is of the size of bf16's, 2^-9 of each
// value it meets. Not so where a router takes other experts for it.
TEST(KvQ8Test, LogitsStayAsNearToTransformersAsABf16Run) {
  for (const char* variant : {"e2b-like", "e4b-like", "12b-like", "31b-like"}) {
    const GoldenData golden(variant);
    EngineRig rig(GoldenDir(variant) + "/target", {.kv = FormatsOf("q8")});
    for (const std::string prompt : {"p0", "p1", "p2"}) {
      const std::vector<int32_t> ids = golden.Ints(prompt + ".ids");
      const auto got = Logits(rig, kernels::CpuOps(*rig.backend), ids).back();
      std::vector<float> want = golden.Has(prompt + ".fp32.last_logits")
                                    ? golden.Floats(prompt + ".fp32.last_logits")
                                    : golden.Floats(prompt + ".fp32.logits");
      want.erase(want.begin(), want.end() - got.size());
      double squares = 0;
      for (size_t i = 0; i < got.size(); ++i) squares += std::pow(double{got[i]} - want[i], 2);
      const double rms = std::sqrt(squares / got.size());
      RecordProperty(TestName(variant) + "_" + prompt, std::to_string(rms));
      EXPECT_LE(MaxAbsDiff(got, want), 2 * kBf16MaxAbs) << variant << " " << prompt;
      EXPECT_LE(rms, 2 * kBf16Rms) << variant << " " << prompt;
    }
  }
}

}  // namespace
}  // namespace tandem::testing
