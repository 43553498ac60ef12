#include "engine/runner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/backend_values.h"
#include "engine/pick_tokens.h"
#include "engine/sample_runs.h"
#include "engine/step_buffers.h"
#include "engine/step_rows.h"
#include "kvcache/kv_formats.h"

namespace tandem::engine {
namespace {

constexpr int kSampleTasks = 16;  // rows sampled at the same time, each with its own scratch

}  // namespace

struct Runner::State {
  State(const Model& model, const kernels::Ops& ops,
        std::array<kvcache::BlockStore*, kNumKvGroups> stores, const RunnerConfig& config,
        Propose propose)
      : model(model), ops(ops), stores(stores), config(config), propose(std::move(propose)) {}

  const Model& model;
  const kernels::Ops& ops;
  std::array<kvcache::BlockStore*, kNumKvGroups> stores;
  RunnerConfig config;
  Propose propose;
  kernels::Memory memory;
  StepBuffers buffers;
  std::array<std::span<const float>, kNumKvGroups> inv_freq;  // of the backend
  BlockTokens block_tokens = {};
  std::array<HeadCounts, kNumKvGroups> heads;
  std::vector<kernels::KvView> views;  // [layers] of the layer's KV owner
  std::array<SampleScratch, kSampleTasks> sample_scratch;
  std::array<kernels::KvEncodeCounts, kNumKvGroups> encode_counts;
  WorkCounters work;
  const uint64_t program = kernels::NewProgram();

  // Of the step that runs.
  const StepBatch* batch = nullptr;
  const StepTrace* trace = nullptr;
  std::vector<int> sampled;  // batch rows whose output is wanted, ascending, each once
  SampleRuns runs;
  std::vector<kernels::PickRequest> picks;
  std::vector<int32_t> picked_ids;  // by pick
  std::vector<int32_t> picked;      // by sample
  // Of the class of rows that is in the forward.
  StepRows live;
  bool prompt = false;
  kernels::StagedRows staged;
  std::vector<uint8_t> nonfinite;   // [rows] 1: some layer stored zeros instead
  std::vector<int> nonfinite_rows;  // [rows] of the batch

  const ModelConfig& shape() const { return model.config; }

  absl::Status CopyBlocks(const StepBatch& step);
  void PrepareBlocks(const StepBatch& step);
  void Forward(RowClass row_class);
  void Stage(uint8_t* found_nonfinite = nullptr);
  void Rotations();
  void CountLayer(int i);
  void Embed();
  std::vector<int> SampledLiveRows() const;
  void Compact();
  void Layer(int i);
  void Attention(int i);
  void DenseMlp(int i, float* out);
  void Experts(int i);
  void PerLayerEmbedding(int i);
  void KeepSampledRows();
  void Head(StepResult& result);
  bool PickRows(int first, int last, int logit_begin);
  void SampleRows(int first, int last, int logit_begin, float* logits, StepResult& result);
  // Of a batch row in `sampled`, and so in buffers.z.
  size_t SampledIndex(int batch_row) const {
    return std::lower_bound(sampled.begin(), sampled.end(), batch_row) - sampled.begin();
  }
  void ProposeDrafts(StepResult& result);
  std::vector<int> BrokenSegments() const;

  int rows() const { return staged.rows; }  // that operations run on
  std::span<const int32_t> StagedSpan(const int32_t* values) const {
    return {values, static_cast<size_t>(staged.rows)};
  }

  void Linear(const void* x, int64_t x_stride, const kernels::WeightView& w, float* y,
              bool f32_operands = false) {
    kernels::LinearArgs args;
    args.x = x;
    args.x_stride = x_stride;
    args.w = w;
    args.y = y;
    args.y_stride = w.out;
    args.rows = rows();
    args.f32_operands = f32_operands;
    args.prompt = prompt;
    ops.linear(ops.backend, args);
  }

  void RmsNorm(const float* x, const float* weight, void* y, bool y_f32 = false) {
    ops.rms_norm(ops.backend, {x, weight, y, rows(), shape().hidden, shape().rms_eps, y_f32});
  }

  // h = (h + RmsNorm(a; weight)) * scale
  void NormAdd(const float* a, const float* weight, float* h, const float* scale = nullptr) {
    ops.norm_add(ops.backend, {a, weight, h, rows(), shape().hidden, shape().rms_eps, scale});
  }

  // h as what a product reads; valid until buffers.x is written.
  const void* ResidualOperands() {
    return ops.as_operands(ops.backend, buffers.h, buffers.x, int64_t{rows()} * shape().hidden);
  }

  void* OperandRow(void* operands, size_t row, size_t dim) const {
    return static_cast<std::byte*>(operands) + row * dim * ops.operand_bytes;
  }

  void Gather(const void* from, size_t from_bytes, void* to, size_t to_bytes, size_t row_bytes,
              std::span<const int32_t> index, bool scatter = false) {
    ops.gather(ops.backend, {from, from_bytes, to, to_bytes, row_bytes, index, scatter});
  }

  void Show(std::string_view what, int layer, const std::vector<int>& batch_rows, const void* data,
            size_t dim, bool operands = false) const {
    if (!*trace) return;
    std::vector<float> values;
    FetchFloats(ops, data, batch_rows.size() * dim, operands, values);
    (*trace)(what, layer, batch_rows, values);
  }
};

// What the step reads and writes from here on are the copies.
absl::Status Runner::State::CopyBlocks(const StepBatch& step) {
  for (const BlockCopy& copy : step.copies) {
    kvcache::BlockStore* store = stores[copy.group];
    const auto known = [&](int32_t block) { return block >= 0 && block < store->num_blocks(); };
    if (store == nullptr || !known(copy.from) || !known(copy.to) || copy.from == copy.to) {
      return absl::InternalError(
          absl::StrFormat("a step copies block %d to block %d of KV group %d, which can not be",
                          copy.from, copy.to, static_cast<int>(copy.group)));
    }
    ops.copy(ops.backend, store->block(copy.to), store->block(copy.from),
             store->layout().block_bytes);
  }
  return absl::OkStatus();
}

// Blocks that get their first row.
void Runner::State::PrepareBlocks(const StepBatch& step) {
  if (!ops.host_memory) return;
  for (const Segment& segment : step.segments) {
    for (const KvGroup group : {kSliding, kFull}) {
      if (stores[group] == nullptr) continue;
      for (int t = segment.row_begin; t < segment.row_begin + segment.num_rows; ++t) {
        const int32_t position = step.positions[t];
        if (position % block_tokens[group] != 0) continue;
        stores[group]->PrepareBlock(segment.block_table[group][position / block_tokens[group]]);
      }
    }
  }
}

// Hands the live rows to the backend.
//   found_nonfinite  [rows], of rows that are stored
void Runner::State::Stage(uint8_t* found_nonfinite) {
  kernels::RowsArgs args = RowsToStage(live, block_tokens, heads);
  args.prompt = prompt;
  if (shape().ple_width > 0) {
    args.ple_table = model.weights.ple_table;
    args.ple_table_rows = shape().ple_vocab;
    args.ple_row_values = int64_t{shape().num_layers()} * shape().ple_width;
  }
  args.nonfinite = found_nonfinite;
  for (const KvGroup group : {kSliding, kFull}) args.counts[group] = &encode_counts[group];
  args.max_rows = config.max_step_rows;
  staged = ops.stage(ops.backend, args);
}

// cos and sin of the staged positions.
void Runner::State::Rotations() {
  for (const KvGroup group : {kSliding, kFull}) {
    if (stores[group] == nullptr) continue;
    ops.rope_table(ops.backend, {StagedSpan(staged.positions), inv_freq[group], buffers.cos[group],
                                 buffers.sin[group]});
  }
}

// The layers, for the rows of a class; what is sampled of them ends in buffers.z.
void Runner::State::Forward(RowClass row_class) {
  FindRows(*batch, row_class, shape().sliding_window, block_tokens, live);
  if (live.size() == 0) return;
  prompt = row_class == RowClass::kPrompt;
  const size_t staged_before = nonfinite_rows.size();
  nonfinite_rows.insert(nonfinite_rows.end(), live.batch_rows.begin(), live.batch_rows.end());
  Stage(nonfinite.data() + staged_before);
  // Generated rows are all sampled, but for those of a sequence that runs again: then every step is
  // the same calls.
  const bool repeats = row_class == RowClass::kGenerated && !*trace &&
                       SampledLiveRows().size() == live.batch_rows.size();
  const bool call = !repeats || ops.begin_run(ops.backend, program);
  if (call) Embed();
  work.linear_madds += uint64_t(live.size()) * model.weights.ple_context.out * shape().hidden;
  for (int i = 0; i < shape().num_layers(); ++i) {
    if (i == shape().first_shared) Compact();  // nothing above stores K/V
    if (live.size() == 0) return;
    if (call) Layer(i);
    CountLayer(i);
  }
  if (call && repeats) ops.end_run(ops.backend);
  KeepSampledRows();
}

// What the live rows cost in a layer.
void Runner::State::CountLayer(int i) {
  const LayerDesc& desc = shape().layers[i];
  const LayerWeights& w = model.weights.layers[i];
  const uint64_t hidden = shape().hidden;
  uint64_t row = 3 * hidden * desc.mlp_width;
  for (const kernels::WeightView& matrix : {w.qkv, w.o, w.router, w.ple_gate, w.ple_up}) {
    row += uint64_t(matrix.out) * matrix.in;
  }
  if (desc.moe) row += 3 * hidden * shape().experts_per_token * shape().expert_width;
  work.linear_madds += row * live.size();
  const StepRows::Group& g = live.groups[desc.group()];
  for (int t = 0; t < live.size(); ++t) {
    work.attention_madds += uint64_t(g.end[t] - g.begin[t]) * desc.num_q_heads * desc.head_dim * 2;
  }
}

// h = E[ids] * s, and the per-layer inputs.
void Runner::State::Embed() {
  Rotations();
  ops.embed(ops.backend,
            {model.weights.embed, StagedSpan(staged.ids), model.embed_scale, buffers.h});
  Show("embed", -1, live.batch_rows, buffers.h, shape().hidden);
  if (shape().ple_width == 0) return;
  Linear(ResidualOperands(), shape().hidden, model.weights.ple_context, buffers.ple);
  kernels::PleArgs args;
  args.ids = StagedSpan(staged.ids);
  args.table = model.weights.ple_table;
  args.table_rows = shape().ple_vocab;
  args.norm = model.weights.ple_norm;
  args.ctx = buffers.ple;
  args.layers = shape().num_layers();
  args.width = shape().ple_width;
  args.ctx_scale = 1.0f / std::sqrt(static_cast<float>(shape().hidden));
  args.table_scale = ToFloat(kernels::ToBf16(std::sqrt(static_cast<float>(shape().ple_width))));
  args.out_scale = std::sqrt(0.5f);
  args.eps = shape().rms_eps;
  ops.ple(ops.backend, args);
  Show("ple", -1, live.batch_rows, buffers.ple, size_t(shape().num_layers()) * shape().ple_width);
}

// Indices of the live rows that are sampled.
std::vector<int> Runner::State::SampledLiveRows() const {
  std::vector<int> indices;
  for (int i = 0; i < live.size(); ++i) {
    if (std::binary_search(sampled.begin(), sampled.end(), live.batch_rows[i])) {
      indices.push_back(i);
    }
  }
  return indices;
}

// Leaves only the sampled rows in the forward.
void Runner::State::Compact() {
  const std::vector<int> keep = SampledLiveRows();
  if (static_cast<int>(keep.size()) == live.size()) return;
  const auto keep_rows = [&](float* data, size_t dim) {
    const size_t bytes = dim * sizeof(float);
    Gather(data, bytes, data, bytes, bytes, keep);
  };
  keep_rows(buffers.h, shape().hidden);
  if (shape().ple_width > 0) {
    keep_rows(buffers.ple, size_t(shape().num_layers()) * shape().ple_width);
  }
  KeepRows(keep, live);
  if (live.size() == 0) return;
  Stage();
  Rotations();
}

// gemma4.md 2.5, from the normed input to the projected output in buffers.y.
void Runner::State::Attention(int i) {
  const LayerDesc& desc = shape().layers[i];
  const LayerWeights& w = model.weights.layers[i];
  const KvGroup group = desc.group();
  Linear(buffers.x, shape().hidden, w.qkv, buffers.qkv);

  const bool owner = desc.kv_owner == i;
  kernels::QkvPostArgs post;
  post.qkv = buffers.qkv;
  post.stride = w.qkv.out;
  post.rows = rows();
  post.num_q_heads = desc.num_q_heads;
  post.num_kv_heads = owner ? desc.num_kv_heads : 0;
  post.head_dim = desc.head_dim;
  post.has_v = desc.has_v_proj;
  post.q_norm = w.q_norm;
  post.k_norm = w.k_norm;
  post.cos = buffers.cos[group];
  post.sin = buffers.sin[group];
  post.live = static_cast<int>(inv_freq[group].size());
  post.eps = shape().rms_eps;
  post.kv = views[i];
  post.cells = staged.cells[group];
  post.nonfinite = staged.nonfinite;
  post.counts = &encode_counts[group];
  ops.qkv_post(ops.backend, post);

  kernels::AttentionArgs args;
  args.q = buffers.qkv;
  args.q_stride = w.qkv.out;
  args.out = buffers.attn;
  args.segments = live.groups[group].segments;
  args.visible_begin = staged.visible_begin[group];
  args.visible_end = staged.visible_end[group];
  args.group = group;
  args.num_q_heads = desc.num_q_heads;
  args.num_kv_heads = desc.num_kv_heads;
  args.head_dim = desc.head_dim;
  args.kv = views[i];
  ops.attention(ops.backend, args);
  Linear(buffers.attn, w.o.in, w.o, buffers.y);
}

// out = down(gelu(gate x) * (up x)) of the normed input in buffers.x.
void Runner::State::DenseMlp(int i, float* out) {
  const LayerWeights& w = model.weights.layers[i];
  const int width = shape().layers[i].mlp_width;
  kernels::LinearGegluArgs args;
  args.x = buffers.x;
  args.x_stride = shape().hidden;
  args.w = w.gate_up;
  args.y = buffers.mlp;
  args.y_stride = width;
  args.rows = rows();
  args.width = width;
  args.prompt = prompt;
  ops.linear_geglu(ops.backend, args);
  Linear(buffers.mlp, width, w.down, out);
}

// gemma4.md 2.7: the dense branch and the chosen experts, both normed, summed in buffers.y.
void Runner::State::Experts(int i) {
  const LayerWeights& w = model.weights.layers[i];
  DenseMlp(i, buffers.y);
  RmsNorm(buffers.y, w.post_ffn_norm_1, buffers.y, /*y_f32=*/true);

  RmsNorm(buffers.h, w.router_scale, buffers.router_x, /*y_f32=*/true);
  Linear(buffers.router_x, shape().hidden, w.router, buffers.router, /*f32_operands=*/true);
  kernels::RouteArgs route;
  route.logits = buffers.router;
  route.rows = rows();
  route.experts = shape().experts;
  route.top_k = shape().experts_per_token;
  route.expert_scale = w.expert_scale;
  route.ids = buffers.expert_ids;
  route.weights = buffers.expert_weights;
  ops.route(ops.backend, route);
  if (*trace) {
    const size_t chosen = size_t(live.size()) * route.top_k;
    const auto* fetched = static_cast<const int32_t*>(
        ops.fetch(ops.backend, buffers.expert_ids, chosen * sizeof(int32_t)));
    const std::vector<float> ids(fetched, fetched + chosen);
    (*trace)("expert_ids", i, live.batch_rows, ids);
    Show("expert_weights", i, live.batch_rows, buffers.expert_weights, route.top_k);
  }

  RmsNorm(buffers.h, w.pre_ffn_norm_2, buffers.x);
  kernels::ExpertsArgs experts;
  experts.x = buffers.x;
  experts.rows = rows();
  experts.dim = shape().hidden;
  experts.width = shape().expert_width;
  experts.top_k = shape().experts_per_token;
  experts.gate_up = w.expert_gate_up;
  experts.down = w.expert_down;
  experts.ids = buffers.expert_ids;
  experts.weights = buffers.expert_weights;
  experts.out = buffers.expert_y;
  ops.experts(ops.backend, experts);
  NormAdd(buffers.expert_y, w.post_ffn_norm_2, buffers.y);
}

// gemma4.md 2.6, last part; also applies the layer scalar.
void Runner::State::PerLayerEmbedding(int i) {
  const LayerWeights& w = model.weights.layers[i];
  const int width = shape().ple_width;
  Linear(ResidualOperands(), shape().hidden, w.ple_gate, buffers.ple_gate);
  kernels::GeluMulArgs gate;
  gate.a = buffers.ple_gate;
  gate.a_stride = width;
  gate.b = buffers.ple + size_t(i) * width;
  gate.b_stride = int64_t{shape().num_layers()} * width;
  gate.y = buffers.mlp;
  gate.y_stride = width;
  gate.rows = rows();
  gate.dim = width;
  ops.gelu_mul(ops.backend, gate);
  Linear(buffers.mlp, width, w.ple_up, buffers.y);
  NormAdd(buffers.y, w.post_ple_norm, buffers.h, w.layer_scalar);
}

void Runner::State::Layer(int i) {
  const LayerWeights& w = model.weights.layers[i];
  RmsNorm(buffers.h, w.input_norm, buffers.x);
  Attention(i);
  NormAdd(buffers.y, w.post_attn_norm, buffers.h);
  RmsNorm(buffers.h, w.pre_ffn_norm, buffers.x);
  if (shape().layers[i].moe) {
    Experts(i);
  } else {
    DenseMlp(i, buffers.y);
  }
  const bool ple = shape().ple_width > 0;
  NormAdd(buffers.y, w.post_ffn_norm, buffers.h, ple ? nullptr : w.layer_scalar);
  if (ple) PerLayerEmbedding(i);
  Show("layer", i, live.batch_rows, buffers.h, shape().hidden);
}

// Draws those of the samples [first, last) that the backend can draw; whether these are all.
bool Runner::State::PickRows(int first, int last, int logit_begin) {
  picks.clear();
  picked.resize(batch->samples.size());
  for (int s = first; s < last; ++s) {
    const SampleRequest& request = batch->samples[s];
    if (!PickedByBackend(ops, request)) continue;
    picks.push_back(PickFor(request, static_cast<int>(SampledIndex(request.row)) - logit_begin));
  }
  if (picks.empty()) return first == last;
  picked_ids.resize(picks.size());
  ops.pick(ops.backend, {.logits = buffers.logits,
                         .vocab = shape().vocab,
                         .suppressed = buffers.suppressed,
                         .requests = picks,
                         .ids = picked_ids.data()});
  size_t at = 0;
  for (int s = first; s < last; ++s) {
    if (PickedByBackend(ops, batch->samples[s])) picked[s] = picked_ids[at++];
  }
  return picks.size() == static_cast<size_t>(last - first);
}

// Samples that read logit rows [logit_begin, ...) are batch.samples [first, last).
void Runner::State::SampleRows(int first, int last, int logit_begin, float* logits,
                               StepResult& result) {
  struct Context {
    State& state;
    int first, last;
    int logit_begin;
    float* logits;
    StepResult& result;
    size_t first_run, num_runs;
  };
  const auto ends_before = [](const SampleRun& run, int sample) { return run.last <= sample; };
  std::vector<SampleRun>& all = runs.runs;
  const auto run = std::lower_bound(all.begin(), all.end(), first, ends_before);
  const auto runs_end = std::lower_bound(
      run, all.end(), last, [](const SampleRun& r, int sample) { return r.first < sample; });
  Context context{*this,
                  first,
                  last,
                  logit_begin,
                  logits,
                  result,
                  static_cast<size_t>(run - all.begin()),
                  static_cast<size_t>(runs_end - run)};
  ops.for_each(
      ops.backend, static_cast<int>(std::min<size_t>(kSampleTasks, context.num_runs)),
      [](void* opaque, int task) {
        Context& c = *static_cast<Context*>(opaque);
        State& state = c.state;
        const StepBatch& batch = *state.batch;
        const size_t vocab = state.shape().vocab;
        for (size_t i = task; i < c.num_runs; i += kSampleTasks) {
          SampleRun& run = state.runs.runs[c.first_run + i];
          for (int s = std::max(run.first, c.first); run.open && s < std::min(run.last, c.last);
               ++s) {
            const SampleRequest& request = batch.samples[s];
            const size_t logit_row = state.SampledIndex(request.row) - c.logit_begin;
            SampledToken& token = c.result.tokens[s];
            if (PickedByBackend(state.ops, request)) {
              token = {.id = state.picked[s], .finite = state.picked[s] >= 0};
            } else {
              token = Sample({c.logits + logit_row * vocab, vocab}, request,
                             state.shape().generation.suppressed_ids, state.sample_scratch[task]);
            }
            run.drawn = s;
            run.open = s + 1 < run.last && token.finite && batch.ids[request.row + 1] == token.id;
          }
        }
      },
      &context);
}

// The segments with a row that counts and was stored as zeros. Behind a guess that did not hold no
// row counts.
std::vector<int> Runner::State::BrokenSegments() const {
  std::vector<uint8_t> broken_rows(batch->ids.size(), 0);  // by row of the batch
  for (size_t i = 0; i < nonfinite_rows.size(); ++i) broken_rows[nonfinite_rows[i]] = nonfinite[i];
  std::vector<int> broken;
  for (size_t i = 0; i < batch->segments.size(); ++i) {
    const Segment& segment = batch->segments[i];
    const int end = segment.num_drafts > 0
                        ? batch->samples[runs.runs[runs.segment_runs[i]].drawn].row + 1
                        : segment.row_begin + segment.num_rows;
    const auto begin = broken_rows.begin();
    if (std::find(begin + segment.row_begin, begin + end, 1) != begin + end) {
      broken.push_back(static_cast<int>(i));
    }
  }
  return broken;
}

// Asks the proposer what may follow the tokens that were drawn.
void Runner::State::ProposeDrafts(StepResult& result) {
  const size_t hidden = shape().hidden;
  std::vector<std::vector<int32_t>> drawn(batch->drafts.size());
  std::vector<DraftSlot> slots;
  std::vector<int> request_of;  // by slot
  for (size_t i = 0; i < batch->drafts.size(); ++i) {
    const DraftRequest& request = batch->drafts[i];
    const SampleRun& run = runs.runs[runs.draft_runs[i]];
    if (!result.tokens[run.drawn].finite) continue;
    for (int s = run.first; s <= run.drawn; ++s) drawn[i].push_back(result.tokens[s].id);
    DraftSlot slot;
    slot.next = batch->samples[run.drawn];
    slot.token = drawn[i].back();
    slot.position = batch->positions[slot.next.row] + 1;
    slot.handoff = {
        static_cast<const std::byte*>(OperandRow(buffers.z, SampledIndex(slot.next.row), hidden)),
        hidden * ops.operand_bytes};
    slot.block_table = batch->segments[request.segment].block_table;
    slot.max_tokens = request.max_tokens;
    slot.next.row = -1;
    slot.next.position += 1;
    slot.next.drafted = drawn[i];
    slot.next.logprobs = {};
    slot.prompt = request.prompt;
    slot.output = request.output;
    slot.drawn = drawn[i];
    slots.push_back(slot);
    request_of.push_back(static_cast<int>(i));
  }
  if (slots.empty()) return;
  const auto begin = std::chrono::steady_clock::now();
  std::vector<Draft> drafts(slots.size());
  result.draft_steps = propose(slots, drafts);
  for (size_t i = 0; i < slots.size(); ++i) {
    std::vector<int32_t>& ids = drafts[i].ids;
    const auto outside = [&](int32_t id) { return id < 0 || id >= shape().vocab; };
    const auto bad = std::find_if(ids.begin(), ids.end(), outside);
    if (bad != ids.end()) drafts[i].finite = false;
    ids.erase(bad, ids.end());
    if (static_cast<int>(ids.size()) > slots[i].max_tokens) ids.resize(slots[i].max_tokens);
    result.drafts[request_of[i]] = std::move(drafts[i]);
  }
  result.draft_us = std::chrono::duration_cast<std::chrono::microseconds>(
                        std::chrono::steady_clock::now() - begin)
                        .count();
}

// The last norm of the sampled rows among the live ones, to their places in buffers.z.
void Runner::State::KeepSampledRows() {
  const std::vector<int> from = SampledLiveRows();
  if (from.empty()) return;
  std::vector<int32_t> to;
  for (const int row : from) {
    to.push_back(static_cast<int32_t>(SampledIndex(live.batch_rows[row])));
  }
  const size_t hidden = shape().hidden;
  const size_t f32_bytes = hidden * sizeof(float);
  const size_t bytes = hidden * ops.operand_bytes;
  Gather(buffers.h, f32_bytes, buffers.y, f32_bytes, f32_bytes, from);
  ops.rms_norm(ops.backend, {buffers.y, model.weights.final_norm, buffers.x,
                             static_cast<int>(from.size()), shape().hidden, shape().rms_eps});
  Gather(buffers.x, bytes, buffers.z, bytes, bytes, to, /*scatter=*/true);
}

// The head of the sampled rows, a buffer of logits at a time, then their tokens.
void Runner::State::Head(StepResult& result) {
  const int hidden = shape().hidden;
  const size_t vocab = shape().vocab;
  const size_t step = StepLogitRows(config.max_step_rows);
  Show("hidden", -1, sampled, buffers.z, hidden, /*operands=*/true);
  size_t sample = 0;
  for (size_t begin = 0; begin < sampled.size(); begin += step) {
    const size_t count = std::min(step, sampled.size() - begin);
    const std::vector<int> chunk(sampled.begin() + begin, sampled.begin() + begin + count);
    const kernels::WeightView& head = model.weights.head;
    ops.linear(ops.backend, {.x = OperandRow(buffers.z, begin, hidden),
                             .x_stride = hidden,
                             .w = head,
                             .y = buffers.logits,
                             .y_stride = head.out,
                             .rows = static_cast<int>(count)});
    work.linear_madds += uint64_t(count) * head.out * head.in;
    if (shape().logit_softcap > 0) {
      ops.softcap(ops.backend,
                  {buffers.logits, static_cast<int64_t>(count * vocab), shape().logit_softcap});
    }
    Show("logits", -1, chunk, buffers.logits, vocab);
    size_t last = sample;
    while (last < batch->samples.size() && batch->samples[last].row <= chunk.back()) ++last;
    const bool all_picked =
        PickRows(static_cast<int>(sample), static_cast<int>(last), static_cast<int>(begin));
    auto* logits = all_picked ? nullptr
                              : static_cast<float*>(ops.fetch(ops.backend, buffers.logits,
                                                              count * vocab * sizeof(float)));
    SampleRows(static_cast<int>(sample), static_cast<int>(last), static_cast<int>(begin), logits,
               result);
    sample = last;
  }
}

Runner::Runner(std::unique_ptr<State> state) : state_(std::move(state)) {}
Runner::~Runner() = default;

size_t Runner::ScratchBytes(const ModelConfig& config, const RunnerConfig& runner_config,
                            size_t operand_bytes) {
  StepBuffers buffers;
  return LayOutStepBuffers(config, runner_config.max_step_rows, operand_bytes, nullptr, buffers);
}

absl::StatusOr<std::unique_ptr<Runner>> Runner::Create(
    const Model& model, const kernels::Ops& ops,
    std::array<kvcache::BlockStore*, kNumKvGroups> stores, const RunnerConfig& config,
    Propose propose) {
  if (config.max_step_rows < 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("max_step_rows is %d; at least 1", config.max_step_rows));
  }
  const ModelConfig& shape = model.config;
  auto state = std::make_unique<State>(model, ops, stores, config, std::move(propose));
  for (int i = 0; i < shape.num_layers(); ++i) {
    const LayerDesc& desc = shape.layers[i];
    const kvcache::BlockStore* store = stores[desc.group()];
    if (store == nullptr || desc.kv_index >= static_cast<int>(store->layout().layers.size())) {
      return absl::InternalError(absl::StrFormat("layer %d has no KV storage", i));
    }
    const kernels::KvView view = store->View(desc.kv_index);
    if (!ops.supports({desc.head_dim, view.k_format, view.v_format})) {
      return absl::UnimplementedError(absl::StrFormat(
          "layer %d has head size %d and KV formats %s/%s, for which %s has no attention kernel "
          "(built: head sizes 256 and 512)",
          i, desc.head_dim, kvcache::KvFormatName(view.k_format),
          kvcache::KvFormatName(view.v_format), ops.name));
    }
    state->views.push_back(view);
  }
  for (const KvGroup group : {kSliding, kFull}) {
    if (stores[group] != nullptr) state->block_tokens[group] = stores[group]->layout().block_tokens;
  }
  if (absl::Status s = FindHeadCounts(shape.layers, state->heads); !s.ok()) return s;
  absl::StatusOr<kernels::Memory> memory =
      ops.memory.Allocate(ScratchBytes(shape, config, ops.operand_bytes));
  if (!memory.ok()) return memory.status();
  state->memory = *std::move(memory);
  std::byte* const base = state->memory.data();
  LayOutStepBuffers(shape, config.max_step_rows, ops.operand_bytes, base, state->buffers);
  for (const KvGroup group : {kSliding, kFull}) {
    const std::vector<float> inv_freq = shape.InvFreq(group);
    WriteFloats(ops, inv_freq, state->buffers.inv_freq[group]);
    state->inv_freq[group] = {state->buffers.inv_freq[group], inv_freq.size()};
  }
  const std::vector<uint32_t> suppressed = BitsOf(shape.generation.suppressed_ids, shape.vocab);
  ops.write(ops.backend, state->buffers.suppressed, suppressed.data(),
            suppressed.size() * sizeof(uint32_t));
  return std::unique_ptr<Runner>(new Runner(std::move(state)));
}

absl::Status Runner::Run(const StepBatch& batch, StepResult& result, const StepTrace& trace) {
  State& s = *state_;
  s.batch = &batch;
  s.trace = &trace;
  result = {};
  result.tokens.resize(batch.samples.size());
  result.drafts.resize(batch.drafts.size());
  const size_t rows = batch.ids.size();
  if (rows > static_cast<size_t>(s.config.max_step_rows) || batch.positions.size() != rows) {
    return absl::InternalError(
        absl::StrFormat("a step of %d ids and %d positions does not fit max_step_rows = %d", rows,
                        batch.positions.size(), s.config.max_step_rows));
  }
  if (absl::Status status = CheckSegments(batch, s.block_tokens); !status.ok()) return status;
  if (absl::Status status = FindRuns(batch, s.runs); !status.ok()) return status;
  if (absl::Status status = s.CopyBlocks(batch); !status.ok()) return status;
  s.PrepareBlocks(batch);

  s.sampled.clear();
  for (const SampleRequest& request : batch.samples) {
    if (s.sampled.empty() || s.sampled.back() != request.row) s.sampled.push_back(request.row);
  }
  s.nonfinite.assign(rows, 0);
  s.nonfinite_rows.clear();
  if (s.ops.prompt_rows_apart) {
    // Given tokens first: a sequence's generated ones may see them.
    s.Forward(RowClass::kPrompt);
    s.Forward(RowClass::kGenerated);
  } else {
    s.Forward(RowClass::kAll);
  }
  s.Head(result);
  s.ops.collect(s.ops.backend);
  if (absl::Status status = s.ops.status(s.ops.backend); !status.ok()) return status;
  result.broken_segments = s.BrokenSegments();
  if (s.propose && !batch.drafts.empty()) s.ProposeDrafts(result);
  return s.ops.status(s.ops.backend);
}

const WorkCounters& Runner::work() const { return state_->work; }

const kernels::KvEncodeCounts& Runner::encode_counts(KvGroup group) const {
  return state_->encode_counts[group];
}

}  // namespace tandem::engine
