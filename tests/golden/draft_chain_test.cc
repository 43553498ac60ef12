// What a chain of draft steps may depend on and what it touches: its own slots, the donors'
// committed rows, its list of operations.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <typeindex>
#include <utility>

#include "tests/engine/kv_rows.h"
#include "tests/golden/assistant_rig.h"

namespace tandem::testing {
namespace {

using engine::DraftSlot;
using engine::kFull;
using engine::kSliding;
using engine::KvGroup;
using kernels::CpuIsa;
using ::testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<int32_t> RandomIds(int count, int vocab, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = 107 + static_cast<int32_t>(random() % (vocab - 120));
  return ids;
}

// A sequence whose rows are stored, and what a draft behind it starts from.
struct Seated {
  RigSequence sequence;
  std::vector<float> handoff;
  int32_t token = 0;

  DraftSlot Slot(const AssistantRig& r, int max_tokens) const {
    return r.Slot(sequence, handoff, token, max_tokens);
  }
};

Seated Seat(AssistantRig& r, int length, uint32_t seed) {
  Seated seated;
  seated.sequence.ids = RandomIds(length, r.model.config.vocab, seed);
  seated.handoff = r.Fill(seated.sequence);
  seated.token = RandomIds(1, r.model.config.vocab, seed + 1)[0];
  return seated;
}

// Sequences of different lengths, below and above the window.
std::vector<Seated> SeatMany(AssistantRig& r, int count) {
  std::vector<Seated> many;
  for (int i = 0; i < count; ++i) many.push_back(Seat(r, 1 + 11 * i, 10 * i));
  return many;
}

// Every value of slot `a` in one proposal has the bits of slot `b` in another.
void ExpectSameChain(const Proposal& got, int a, const Proposal& want, int b) {
  EXPECT_EQ(got.drafts[a].ids, want.drafts[b].ids);
  EXPECT_EQ(got.drafts[a].finite, want.drafts[b].finite);
  int compared = 0;
  for (const auto& [key, row] : want.record.rows) {
    const auto& [name, step, slot] = key;
    if (slot != b) continue;
    const std::vector<float> other = got.record.Row(name, step, a);
    ASSERT_EQ(other.size(), row.size()) << name << " of step " << step;
    ASSERT_EQ(std::memcmp(other.data(), row.data(), row.size() * sizeof(float)), 0)
        << name << " of step " << step;
    ++compared;
  }
  EXPECT_GT(compared, 40);
}

// A variant, a level, and KV formats as FormatsOf reads them; f32 all over with "f32".
class DraftChainTest
    : public ::testing::TestWithParam<std::tuple<const char*, CpuIsa, const char*>> {
 protected:
  std::string variant() const { return std::get<0>(GetParam()); }
  std::string formats() const { return std::get<2>(GetParam()); }
  RigConfig config() const { return {.isa = std::get<1>(GetParam()), .kv = FormatsOf(formats())}; }
};

TEST_P(DraftChainTest, EverySlotDraftsInAnyCompanyWhatItDraftsAlone) {
  AssistantRig r(variant(), config());
  const std::vector<Seated> many = SeatMany(r, 9);
  const auto slot_of = [&](int i) { return many[i].Slot(r, 1 + i % 4); };
  // Given what each of nine sequences drafts alone, right behind a step of the target of one row.
  RigSequence stranger{.ids = RandomIds(200, r.model.config.vocab, 99)};
  RigRun one_row{.sequence = &stranger, .rows = 1};
  r.rig.Step({&one_row, 1});
  std::vector<Proposal> alone;
  for (int i = 0; i < 9; ++i) {
    const DraftSlot slot = slot_of(i);
    alone.push_back(Draft(*r.assistant, {&slot, 1}));
    ASSERT_EQ(alone[i].drafts[0].ids.size(), size_t(1 + i % 4));
  }
  std::mt19937 random(5);
  for (int count = 1; count <= 9; ++count) {
    // When some draft together in any order, behind a step of some other number of rows.
    RigRun some_rows{.sequence = &stranger, .rows = 3 * count};
    r.rig.Step({&some_rows, 1});
    std::vector<int> order = {0, 1, 2, 3, 4, 5, 6, 7, 8};
    std::shuffle(order.begin(), order.end(), random);
    order.resize(count);
    std::vector<DraftSlot> slots;
    for (const int i : order) slots.push_back(slot_of(i));
    const Proposal together = Draft(*r.assistant, slots);
    // Then each has the bits that it has alone, and the chain is as long as the longest draft.
    int longest = 0;
    for (int s = 0; s < count; ++s) {
      SCOPED_TRACE(::testing::Message() << count << " slots, sequence " << order[s]);
      ExpectSameChain(together, s, alone[order[s]], 0);
      longest = std::max(longest, slots[s].max_tokens);
    }
    EXPECT_EQ(together.steps, longest);
  }
}

// Fills with NaN whatever a draft behind `sequence` must not read: other blocks, rows from the
// pending token's on, sliding rows outside the window.
void PoisonTheUnseen(AssistantRig& r, const RigSequence& sequence) {
  const int block_tokens = r.rig.config.block_tokens;
  for (const KvGroup group : {kSliding, kFull}) {
    kvcache::BlockStore& store = *r.rig.stores[group];
    const std::vector<int32_t>& table = sequence.tables[group];
    const int begin = group == kFull ? 0 : sequence.done - r.rig.model.config.sliding_window + 1;
    for (int block = 0; block < r.rig.config.blocks; ++block) {
      const auto at = std::find(table.begin(), table.end(), block);
      for (size_t i = 0; i < store.layout().layers.size(); ++i) {
        const kvcache::LayerKv& layer = store.layout().layers[i];
        const kernels::KvView view = store.View(static_cast<int>(i));
        for (int head = 0; head < layer.num_kv_heads; ++head) {
          for (int cell = 0; cell < block_tokens; ++cell) {
            const int position = static_cast<int>(at - table.begin()) * block_tokens + cell;
            if (at != table.end() && position >= begin && position < sequence.done) continue;
            for (const auto run : KvRowRuns(view, layer.head_dim, block, head, cell)) {
              std::memset(run.data(), 0xff, run.size());
            }
          }
        }
      }
    }
  }
}

TEST_P(DraftChainTest, OnlyCommittedRowsOfTheOwnWindowAreRead) {
  AssistantRig r(variant(), config());
  for (const int length : {1, 15, 16, 17, 40, 97}) {
    SCOPED_TRACE(::testing::Message() << length << " rows");
    // Given a sequence that verified a draft which did not hold, beside others.
    Seated seated = Seat(r, length, length);
    const std::vector<Seated> others = SeatMany(r, 3);
    RigSequence overrun = seated.sequence;
    overrun.ids = RandomIds(length + 3, r.model.config.vocab, 3);
    RigRun rejected{.sequence = &overrun, .rows = 3};
    r.rig.Step({&rejected, 1});
    for (const KvGroup group : {kSliding, kFull}) {
      seated.sequence.tables[group] = overrun.tables[group];
    }
    const DraftSlot slot = seated.Slot(r, 3);
    const Proposal before = Draft(*r.assistant, {&slot, 1});
    // When everything but its committed rows turns to NaN.
    PoisonTheUnseen(r, seated.sequence);
    const Proposal after = Draft(*r.assistant, {&slot, 1});
    // Then it drafts the same, bit for bit.
    ASSERT_EQ(before.drafts[0].ids.size(), 3u);
    ExpectSameChain(after, 0, before, 0);
    for (const Seated& other : others) {
      RigSequence sequence = other.sequence;
      r.rig.Free(sequence);
    }
    r.rig.Free(overrun);
  }
}

std::vector<std::byte> AllBytes(const AssistantRig& r) {
  std::vector<std::byte> bytes;
  for (const KvGroup group : {kSliding, kFull}) {
    const kernels::KvView view = r.rig.stores[group]->View(0);  // layer 0 starts a block
    bytes.insert(bytes.end(), view.base, view.base + r.rig.config.blocks * view.block_stride);
  }
  return bytes;
}

TEST_P(DraftChainTest, NoByteOfTheTargetsBlocksChanges) {
  AssistantRig r(variant(), config());
  const std::vector<Seated> many = SeatMany(r, 4);
  const std::vector<std::byte> before = AllBytes(r);
  std::vector<DraftSlot> slots;
  for (const Seated& seated : many) slots.push_back(seated.Slot(r, 4));
  EXPECT_EQ(Draft(*r.assistant, slots).steps, 4);
  EXPECT_TRUE(AllBytes(r) == before);
}

// softmax(q K^T) V over positions [begin, end) of one head, read from the blocks as the layout
// says: what attention of a draft step has to be.
std::vector<double> PlainAttention(const AssistantRig& r, const RigSequence& sequence,
                                   const engine::LayerDesc& layer, int kv_head, int begin, int end,
                                   const float* q) {
  const KvGroup group = layer.group();
  const kernels::KvView view = r.rig.stores[group]->View(layer.kv_index);
  const int block_tokens = r.rig.config.block_tokens, dim = layer.head_dim;
  const auto row = [&](int position, bool value) {
    const int32_t block = sequence.tables[group][position / block_tokens];
    EXPECT_GE(block, 0) << "position " << position << " was released";
    return StoredRow(view, dim, block, kv_head, position % block_tokens, value);
  };
  const std::vector<float> met = RoundedQuery({q, static_cast<size_t>(dim)}, view.k_format);
  std::vector<double> scores, out(dim, 0.0);
  for (int p = begin; p < end; ++p) {
    const std::vector<float> k = row(p, false);
    double score = 0;
    for (int d = 0; d < dim; ++d) score += double{met[d]} * k[d];
    scores.push_back(score);
  }
  const double max = *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (int p = begin; p < end; ++p) {
    const double weight = std::exp(scores[p - begin] - max);
    total += weight;
    const std::vector<float> v = row(p, true);
    for (int d = 0; d < dim; ++d) out[d] += weight * v[d];
  }
  for (double& value : out) value /= total;
  return out;
}

TEST_P(DraftChainTest, EveryStepAttendsToTheSameRowsAroundTheEdgesOfWindowAndBlocks) {
  AssistantRig r(variant(), config());
  const int window = r.rig.model.config.sliding_window;
  Seated seated = Seat(r, 3, 1);
  const std::vector<int32_t> ids = RandomIds(100, r.model.config.vocab, 2);
  for (int committed = 4; committed <= 82; ++committed) {
    seated.sequence.ids.push_back(ids[committed]);
    seated.handoff = r.Fill(seated.sequence);
    const bool edge =
        std::abs(committed - window) <= 3 || committed % r.rig.config.block_tokens < 2;
    if (!edge) continue;
    SCOPED_TRACE(::testing::Message() << committed << " committed rows, window " << window);
    // Given a draft of two tokens behind `committed` rows.
    const DraftSlot slot = seated.Slot(r, 2);
    const Proposal chain = Draft(*r.assistant, {&slot, 1});
    ASSERT_EQ(chain.steps, 2);
    for (int i = 0; i < r.model.config.num_layers(); ++i) {
      const engine::LayerDesc& layer = r.model.config.layers[i];
      const int begin = layer.full ? 0 : std::max(0, committed - window + 1);
      const int group = layer.num_q_heads / layer.num_kv_heads;
      const std::string name = "layers." + std::to_string(i);
      // Weights of values with a scale are rounded by up to 2^-16 of the largest, up to 82 of them.
      const kernels::KvFormat v = r.rig.stores[layer.group()]->View(layer.kv_index).v_format;
      const double tolerance = KvHasScale(v) ? 3e-4 : 2e-5;
      for (const int step : {0, 1}) {
        // Then each layer's heads are a plain softmax over rows [begin, committed).
        const std::vector<float> q = chain.record.Row(name + ".query_post", step, 0);
        const std::vector<float> got = chain.record.Row(name + ".attention", step, 0);
        ASSERT_EQ(got.size(), size_t(layer.num_q_heads) * layer.head_dim);
        for (int head = 0; head < layer.num_q_heads; ++head) {
          const std::vector<double> want =
              PlainAttention(r, seated.sequence, layer, head / group, begin, committed,
                             q.data() + size_t(head) * layer.head_dim);
          for (int d = 0; d < layer.head_dim; ++d) {
            ASSERT_NEAR(got[size_t(head) * layer.head_dim + d], want[d], tolerance)
                << name << " step " << step << " head " << head << " dimension " << d;
          }
        }
      }
    }
  }
}

TEST_P(DraftChainTest, AValueThatIsNotFiniteEndsItsOwnDraftAlone) {
  AssistantRig r(variant(), config());
  std::vector<Seated> many = SeatMany(r, 4);
  const auto draft = [&] {
    std::vector<DraftSlot> slots;
    for (const Seated& seated : many) slots.push_back(seated.Slot(r, 3));
    return Draft(*r.assistant, slots);
  };
  const Proposal clean = draft();
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(clean.drafts[i].finite);
    ASSERT_EQ(clean.drafts[i].ids.size(), 3u);
  }
  const auto expect_only_second_ended = [&](const char* what) {
    SCOPED_TRACE(what);
    const Proposal got = draft();
    EXPECT_FALSE(got.drafts[1].finite);
    EXPECT_TRUE(got.drafts[1].ids.empty());
    for (const int i : {0, 2, 3}) ExpectSameChain(got, i, clean, i);
  };
  // Given a NaN or an infinity in a handoff row, when all draft, then only its slot ends.
  for (const float bad : {kNan, kInf, -kInf}) {
    const float kept = std::exchange(many[1].handoff[7], bad);
    expect_only_second_ended("handoff");
    many[1].handoff[7] = kept;
  }
  // And so with a NaN among the K/V rows that it sees.
  const engine::LayerDesc& layer = r.model.config.layers.back();
  const kernels::KvView view = r.rig.stores[layer.group()]->View(layer.kv_index);
  const std::vector<std::span<std::byte>> key = KvRowRuns(
      view, layer.head_dim, many[1].sequence.tables[layer.group()][0], /*head=*/0, /*cell=*/0);
  std::vector<std::vector<std::byte>> kept_row;
  for (const auto run : key) {
    kept_row.emplace_back(run.begin(), run.end());
    std::fill(run.begin(), run.end(), std::byte{0xff});
  }
  expect_only_second_ended("K/V");
  for (size_t i = 0; i < key.size(); ++i) {
    std::copy(kept_row[i].begin(), kept_row[i].end(), key[i].begin());
  }
  // And a draft keeps what it guessed before its own row stopped being finite.
  auto* post = const_cast<kernels::Bf16*>(r.model.weights.post.data);
  const kernels::Bf16 weight = std::exchange(*post, kernels::Bf16{0x7f80});
  const Proposal cut = draft();
  *post = weight;
  EXPECT_EQ(cut.steps, 2);
  for (int i = 0; i < 4; ++i) {
    EXPECT_FALSE(cut.drafts[i].finite);
    EXPECT_EQ(cut.drafts[i].ids,
              std::vector<int32_t>(clean.drafts[i].ids.begin(), clean.drafts[i].ids.begin() + 1));
  }
  // And weights that break every row leave no draft at all.
  const float norm = std::exchange(*const_cast<float*>(r.model.weights.final_norm), kNan);
  const Proposal none = draft();
  for (const engine::Draft& d : none.drafts) {
    EXPECT_FALSE(d.finite);
    EXPECT_TRUE(d.ids.empty());
  }
  *const_cast<float*>(r.model.weights.final_norm) = norm;
  ExpectSameChain(draft(), 1, clean, 1);
}

// With temperature, penalties and bans, each guess is what the target would draw from the draft's
// logits at that position.
TEST_P(DraftChainTest, GuessesAreDrawnWithTheNoiseAndRulesOfTheTarget) {
  AssistantRig r(variant(), config());
  const Seated seated = Seat(r, 30, 4);
  engine::TokenCounts counts;
  for (const int32_t id : seated.sequence.ids) ++counts.output[id];
  const std::vector<int32_t> drawn = {RandomIds(1, 900, 1)[0], seated.token};
  int differs_from_greedy = 0;
  DraftSlot slot = seated.Slot(r, 4);
  const std::vector<int32_t> greedy = Draft(*r.assistant, {&slot, 1}).drafts[0].ids;
  for (int seed = 0; seed < 12; ++seed) {
    const engine::SamplingParams params = {.temperature = seed % 3 == 0 ? 1.0f : 1.7f,
                                           .top_k = seed % 2 == 0 ? 0 : 40,
                                           .top_p = seed % 4 < 2 ? 1.0f : 0.9f,
                                           .repetition_penalty = seed < 6 ? 1.0f : 1.4f,
                                           .presence_penalty = seed < 9 ? 0.0f : 1.0f,
                                           .seed = static_cast<uint64_t>(seed) << 33,
                                           .banned = {greedy[0]}};
    slot.next.params = &params;
    slot.next.choice = seed;
    slot.next.counts = &counts;
    slot.drawn = drawn;
    const Proposal chain = Draft(*r.assistant, {&slot, 1});
    ASSERT_EQ(chain.drafts[0].ids.size(), 4u);
    std::vector<int32_t> drafted = drawn;
    for (int step = 0; step < 4; ++step) {
      engine::SampleRequest request = slot.next;
      request.position = seated.sequence.done + 1 + step;
      request.drafted = drafted;
      engine::SampleScratch scratch;
      const engine::SampledToken want = engine::Sample(
          chain.record.Logits(r.model, step, 0), request, r.model.config.suppressed_ids, scratch);
      ASSERT_EQ(chain.drafts[0].ids[step], want.id) << "seed " << seed << " step " << step;
      drafted.push_back(want.id);
      differs_from_greedy += want.id != greedy[step] ? 1 : 0;
    }
  }
  EXPECT_GT(differs_from_greedy, 4);
}

TEST_P(DraftChainTest, SuppressedIdsAreNeverGuessed) {
  AssistantRig r(variant(), config());
  const Seated seated = Seat(r, 20, 6);
  const DraftSlot slot = seated.Slot(r, 2);
  // Given guesses, when they are suppressed one after the other, then each is new.
  std::vector<int32_t>& suppressed = r.model.config.suppressed_ids;
  for (int i = 0; i < 5; ++i) {
    const Proposal chain = Draft(*r.assistant, {&slot, 1});
    ASSERT_EQ(chain.drafts[0].ids.size(), 2u);
    for (const int32_t id : chain.drafts[0].ids) {
      EXPECT_EQ(std::count(suppressed.begin(), suppressed.end(), id), 0);
    }
    suppressed.push_back(chain.drafts[0].ids[0]);
  }
}

std::vector<CpuIsa> VectorIsas() {
  std::vector<CpuIsa> isas = PresentIsas();
  isas.erase(isas.begin());
  return isas;
}

std::string ChainParamName(
    const ::testing::TestParamInfo<std::tuple<const char*, CpuIsa, const char*>>& info) {
  const auto& [variant, isa, formats] = info.param;
  const std::string name = TestName(variant) + "_" + std::string(CpuIsaName(isa));
  return formats == std::string("f32") ? name : name + "_" + FormatsTestName(formats);
}

INSTANTIATE_TEST_SUITE_P(Variants, DraftChainTest,
                         ::testing::Combine(::testing::ValuesIn(kVariants),
                                            ::testing::ValuesIn(VectorIsas()),
                                            ::testing::Values("f32")),
                         ChainParamName);
INSTANTIATE_TEST_SUITE_P(Formats, DraftChainTest,
                         ::testing::ValuesIn(FormatSpread({kernels::BestCpuIsa()})),
                         ChainParamName);

TEST(AssistantTest, MoreSlotsThanOneChainHoldsRunAsFurtherChains) {
  AssistantRig r("e2b-like");
  const std::vector<Seated> many = SeatMany(r, 5);
  std::vector<DraftSlot> slots;
  for (int i = 0; i < 5; ++i) slots.push_back(many[i].Slot(r, 1 + i % 3));
  const Proposal at_once = Draft(*r.assistant, slots);
  EXPECT_EQ(at_once.steps, 3);
  r.Create(/*max_slots=*/2);
  const Proposal in_parts = Draft(*r.assistant, slots);
  EXPECT_EQ(in_parts.steps, 3 + 2 + 1);  // of lengths 3 2, 2 1, 1
  for (int i = 0; i < 5; ++i) ExpectSameChain(in_parts, i, at_once, i);
}

TEST(AssistantTest, ADenseHeadTakesMoreRowsThanItsLogitsHoldInParts) {
  // Given 70 slots, more than the buffer of logits has rows.
  AssistantRig r("12b-like");
  const std::vector<Seated> many = SeatMany(r, 3);
  const std::vector<int32_t> tokens = RandomIds(70, r.model.config.vocab, 8);
  r.Create(/*max_slots=*/70);
  std::vector<DraftSlot> slots;
  for (int i = 0; i < 70; ++i) {
    slots.push_back(many[i % 3].Slot(r, 1 + i % 2));
    slots[i].token = tokens[i];
  }
  const Proposal together = Draft(*r.assistant, slots);
  EXPECT_EQ(together.steps, 2);
  for (int i = 0; i < 70; ++i) {
    ExpectSameChain(together, i, Draft(*r.assistant, {&slots[i], 1}), 0);
  }
}

TEST(AssistantTest, NothingIsDraftedForNobody) {
  AssistantRig r("e4b-like");
  EXPECT_EQ(r.assistant->Propose({}, {}), 0);
}

// The list of mtp.md 1.5: nothing is pooled, sampled by the target, stored or copied.
std::vector<std::string> GoldenProgram(int layers, bool clustered) {
  std::vector<std::string> names = {"handoffs", "rope.sliding", "rope.full", "embed", "pre"};
  for (int i = 0; i < layers; ++i) {
    for (const char* name : {"input_norm", "query", "query_post", "attention", "output",
                             "attention_add", "ffn_norm", "gate_up", "down", "ffn_add"}) {
      names.push_back("layers." + std::to_string(i) + "." + name);
    }
  }
  names.push_back("final_norm");
  if (clustered) {
    names.insert(names.end(), {"head.centroids", "head.choose_clusters", "head.cluster_logits"});
  } else {
    names.push_back("head.logits");
  }
  names.insert(names.end(), {"head.choose_token", "post"});
  return names;
}

// Calls of the operations of a table, by the type of their arguments, which is each one's own.
struct Calls {
  std::map<std::type_index, int> counts;
  bool stores = false;  // some call could have stored K/V
  const kernels::Ops* real = nullptr;
};
Calls calls;

template <typename Args>
using OpPointer = void (*)(void*, const Args&);

template <typename Args, OpPointer<Args> kernels::Ops::*kMember>
void Counted(void* backend, const Args& args) {
  if constexpr (std::is_same_v<Args, kernels::QkvPostArgs>) calls.stores |= args.num_kv_heads > 0;
  ++calls.counts[typeid(Args)];
  (calls.real->*kMember)(backend, args);
}

template <typename Args, OpPointer<Args> kernels::Ops::*kMember>
void Count(kernels::Ops& ops) {
  ops.*kMember = Counted<Args, kMember>;
}

TEST(AssistantTest, AChainRunsItsProgramAndNothingElse) {
  for (const char* variant : {"e2b-like", "31b-like"}) {
    SCOPED_TRACE(variant);
    AssistantRig r(variant);
    const int layers = r.model.config.num_layers();
    const bool clustered = r.model.config.clustered;
    // Given the program of an assistant, and operations that count.
    const std::vector<std::string> golden = GoldenProgram(layers, clustered);
    std::vector<std::string> names;
    for (const engine::DraftOp& op : r.assistant->program()) names.push_back(op.name);
    EXPECT_EQ(names, golden);
    const kernels::Ops real = r.ops;
    calls = {.counts = {}, .stores = false, .real = &real};
    using kernels::Ops;
    Count<kernels::EmbedArgs, &Ops::embed>(r.ops);
    Count<kernels::PleArgs, &Ops::ple>(r.ops);
    Count<kernels::RmsNormArgs, &Ops::rms_norm>(r.ops);
    Count<kernels::NormAddArgs, &Ops::norm_add>(r.ops);
    Count<kernels::LinearArgs, &Ops::linear>(r.ops);
    Count<kernels::LinearClustersArgs, &Ops::linear_clusters>(r.ops);
    Count<kernels::LinearGegluArgs, &Ops::linear_geglu>(r.ops);
    Count<kernels::GeluMulArgs, &Ops::gelu_mul>(r.ops);
    Count<kernels::RopeTableArgs, &Ops::rope_table>(r.ops);
    Count<kernels::QkvPostArgs, &Ops::qkv_post>(r.ops);
    Count<kernels::AttentionArgs, &Ops::attention>(r.ops);
    Count<kernels::RouteArgs, &Ops::route>(r.ops);
    Count<kernels::ExpertsArgs, &Ops::experts>(r.ops);
    Count<kernels::SoftcapArgs, &Ops::softcap>(r.ops);
    r.Create();
    const std::vector<Seated> many = SeatMany(r, 3);
    std::vector<DraftSlot> slots;
    for (const Seated& seated : many) slots.push_back(seated.Slot(r, 3));
    // When three slots draft three tokens.
    const Proposal chain = Draft(*r.assistant, slots);
    // Then the chain's operations ran once, a step's three times, and the last step hands on
    // nothing.
    std::vector<std::string> want(golden.begin(), golden.begin() + 3);
    for (int step = 0; step < 3; ++step) {
      want.insert(want.end(), golden.begin() + 3, golden.end() - (step == 2 ? 1 : 0));
    }
    EXPECT_EQ(chain.record.executed, want);
    // And what the backend was asked for is that and no more, whatever the number of slots.
    const int steps = 3;
    std::map<std::type_index, int> counts = {
        {typeid(kernels::RopeTableArgs), 2},
        {typeid(kernels::EmbedArgs), steps},
        {typeid(kernels::LinearArgs), steps * (1 + 3 * layers + 1) + steps - 1},
        {typeid(kernels::LinearGegluArgs), steps * layers},
        {typeid(kernels::RmsNormArgs), steps * (2 * layers + 1)},
        {typeid(kernels::NormAddArgs), steps * 2 * layers},
        {typeid(kernels::QkvPostArgs), steps * layers},
        {typeid(kernels::AttentionArgs), steps * layers}};
    if (clustered) counts[typeid(kernels::LinearClustersArgs)] = steps;
    EXPECT_EQ(calls.counts, counts);
    EXPECT_FALSE(calls.stores);
  }
}

TEST(AssistantTest, WorkIsCountedAsItIsDone) {
  AssistantRig r("e4b-like");
  const engine::AssistantConfig& c = r.model.config;
  const Seated seated = Seat(r, 40, 1);
  const DraftSlot slot = seated.Slot(r, 2);
  Draft(*r.assistant, {&slot, 1});
  uint64_t linear =
      2 * uint64_t(c.backbone_hidden) * c.hidden * 2 +  // pre
      uint64_t(c.backbone_hidden) * c.hidden +          // post, once
      2 * uint64_t(c.num_clusters + c.clusters_per_token * c.cluster_rows()) * c.hidden;
  uint64_t attention = 0;
  for (const engine::LayerDesc& layer : c.layers) {
    const uint64_t width = uint64_t(layer.num_q_heads) * layer.head_dim;
    linear += 2 * (2 * width + 3 * uint64_t(layer.mlp_width)) * c.hidden;
    const int seen = layer.full ? 40 : r.rig.model.config.sliding_window - 1;
    attention += 2 * seen * width * 2;
  }
  EXPECT_EQ(r.assistant->work().linear_madds, linear);
  EXPECT_EQ(r.assistant->work().attention_madds, attention);
}

TEST(AssistantTest, AStepReadsTheWholeDenseHeadOrTheChosenClustersOfEverySlot) {
  AssistantRig dense("26b-like");
  const double all = static_cast<double>(engine::AssistantWeightBytes(dense.model.config));
  EXPECT_GT(dense.assistant->StepBytes(1), 0.97 * all);  // all but the norms
  EXPECT_LT(dense.assistant->StepBytes(1), all + 2.0 * dense.model.config.backbone_hidden);
  AssistantRig clustered("e2b-like");
  const engine::AssistantConfig& c = clustered.model.config;
  const double slot = clustered.assistant->StepBytes(2) - clustered.assistant->StepBytes(1);
  EXPECT_EQ(slot,
            2.0 * c.clusters_per_token * c.cluster_rows() * c.hidden + 2.0 * c.backbone_hidden);
}

TEST(AssistantTest, WhatCanNotRunIsRefusedWhenItIsMade) {
  AssistantRig r("31b-like");
  const auto create = [&](int max_slots = 4) {
    return engine::Assistant::Create(r.model, r.rig.model, r.ops, r.stores(),
                                     {.max_slots = max_slots})
        .status();
  };
  ASSERT_TRUE(create().ok());
  EXPECT_EQ(create(0).code(), absl::StatusCode::kInvalidArgument);
  // Given a backend without attention of the full layer's head size.
  r.ops.supports = [](const kernels::AttentionShape& shape) { return shape.head_dim == 256; };
  const absl::Status unsupported = create();
  EXPECT_EQ(unsupported.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(unsupported.message()), HasSubstr("layer 3 has head size 512"));
  r.ops = kernels::CpuOps(*r.rig.backend);
  // Given donors that are none: not resolved, of the other type, of other heads.
  const engine::LayerDesc fitted = r.model.config.layers[1];
  const auto expect_no_donor = [&](const engine::LayerDesc& layer) {
    r.model.config.layers[1] = layer;
    EXPECT_EQ(create().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(create().message()), HasSubstr("assistant layer 1"));
    r.model.config.layers[1] = fitted;
  };
  engine::LayerDesc layer = fitted;
  layer.kv_owner = -1;
  expect_no_donor(layer);
  layer = fitted;
  layer.kv_owner = r.model.config.layers[3].kv_owner;
  expect_no_donor(layer);
  layer = fitted;
  layer.num_kv_heads *= 2;
  expect_no_donor(layer);
  layer = fitted;
  layer.window += 1;
  expect_no_donor(layer);
  ASSERT_TRUE(create().ok());
  // Given a target of another width.
  r.model.config.backbone_hidden += 2;
  EXPECT_EQ(create().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace tandem::testing
