#include "engine/runner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/step_buffers.h"
#include "kvcache/kv_formats.h"

namespace tandem::engine {
namespace {

constexpr int kSampleTasks = 16;  // rows sampled at the same time, each with its own scratch

// The rows still in the forward, and where each group's attention finds their KV.
struct LiveRows {
  struct Group {
    std::vector<int32_t> cells;       // [rows] where the row's own K/V go
    std::vector<int32_t> begin, end;  // [rows] visible positions
    std::vector<kernels::AttentionSegment> segments;
  };
  std::vector<int> batch_rows;  // [rows] the row of the step batch, ascending
  std::array<Group, kNumKvGroups> groups;

  int size() const { return static_cast<int>(batch_rows.size()); }
};

// Samples that are taken in order: those of a segment that is verified, each as long as the one
// before drew what the next row was fed. Any other sample is a run of its own.
struct SampleRun {
  int first = 0;
  int last = 0;      // behind the last
  int drawn = -1;    // the latest sample that was taken
  bool open = true;  // the next one is to be taken
};

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
  kernels::HugeMemory memory;
  StepBuffers buffers;
  std::array<std::vector<float>, kNumKvGroups> inv_freq;
  std::vector<kernels::KvView> views;  // [layers] of the layer's KV owner
  std::array<SampleScratch, kSampleTasks> sample_scratch;
  std::array<kernels::KvEncodeCounts, kNumKvGroups> encode_counts;
  WorkCounters work;

  // Of the step that runs.
  const StepBatch* batch = nullptr;
  const StepTrace* trace = nullptr;
  LiveRows live;
  std::vector<uint8_t> nonfinite;  // [rows] 1: some layer stored zeros instead
  std::vector<SampleRun> runs;     // covering the samples in order
  std::vector<int> segment_runs;   // [segments] the run that draws in it; -1: none
  std::vector<int> draft_runs;     // by StepBatch::drafts
  std::vector<float> handoffs;     // [drafts, H]

  const ModelConfig& shape() const { return model.config; }

  absl::Status CopyBlocks(const StepBatch& step);
  absl::Status BeginStep(const StepBatch& step);
  absl::Status FindRuns();
  void Embed();
  void Compact(const std::vector<int>& keep);
  void Layer(int i);
  void Attention(int i);
  void DenseMlp(int i, float* out);
  void Experts(int i);
  void PerLayerEmbedding(int i);
  void Head(const std::vector<int>& rows, StepResult& result);
  void SampleRows(int first, int last, const std::vector<int>& rows, int logit_begin,
                  StepResult& result);
  void KeepHandoffs(int first, int last, const std::vector<int>& chunk);
  void ProposeDrafts(StepResult& result);
  std::vector<int> BrokenSegments() const;

  void Linear(const float* x, int64_t x_stride, const kernels::WeightView& w, float* y, int rows,
              bool f32_operands = false) {
    kernels::LinearArgs args;
    args.x = x;
    args.x_stride = x_stride;
    args.w = w;
    args.y = y;
    args.y_stride = w.out;
    args.rows = rows;
    args.f32_operands = f32_operands;
    ops.linear(ops.backend, args);
    work.linear_madds += uint64_t(rows) * w.out * w.in;
  }

  void RmsNorm(const float* x, const float* weight, float* y, int rows) {
    ops.rms_norm(ops.backend, {x, weight, y, rows, shape().hidden, shape().rms_eps});
  }

  // h = (h + RmsNorm(a; weight)) * scale
  void NormAdd(const float* a, const float* weight, float* h, float scale) {
    ops.norm_add(ops.backend, {a, weight, h, live.size(), shape().hidden, shape().rms_eps, scale});
  }

  void Show(std::string_view what, int layer, const std::vector<int>& rows, const float* data,
            size_t dim) const {
    if (*trace) (*trace)(what, layer, rows, {data, rows.size() * dim});
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
    store->CopyBlock(copy.from, copy.to);
  }
  return absl::OkStatus();
}

// Where every row stands: its cells, its visible interval, its segment's block table.
absl::Status Runner::State::BeginStep(const StepBatch& step) {
  const int rows = static_cast<int>(step.ids.size());
  if (rows > config.max_step_rows || step.positions.size() != step.ids.size()) {
    return absl::InternalError(
        absl::StrFormat("a step of %d ids and %d positions does not fit max_step_rows = %d", rows,
                        step.positions.size(), config.max_step_rows));
  }
  live.batch_rows.resize(rows);
  std::iota(live.batch_rows.begin(), live.batch_rows.end(), 0);
  nonfinite.assign(rows, 0);
  for (const KvGroup group : {kSliding, kFull}) {
    LiveRows::Group& g = live.groups[group];
    g.segments.clear();
    if (stores[group] == nullptr) continue;
    g.cells.resize(rows);
    g.begin.resize(rows);
    g.end.resize(rows);
    const int block_tokens = stores[group]->layout().block_tokens;
    int covered = 0;
    for (const Segment& segment : step.segments) {
      const std::span<const int32_t> table = segment.block_table[group];
      if (segment.row_begin != covered || segment.num_rows < 1 ||
          segment.row_begin + segment.num_rows > rows) {
        return absl::InternalError("the segments of a step do not cover its rows in order");
      }
      covered += segment.num_rows;
      for (int t = segment.row_begin; t < covered; ++t) {
        const int32_t position = step.positions[t];
        const size_t logical = position / block_tokens;
        if (logical >= table.size() || table[logical] < 0) {
          return absl::InternalError(
              absl::StrFormat("position %d of a step has no block in the block table", position));
        }
        if (position % block_tokens == 0) stores[group]->PrepareBlock(table[logical]);
        g.cells[t] = table[logical] * block_tokens + position % block_tokens;
        g.begin[t] = group == kFull ? 0 : std::max(0, position - shape().sliding_window + 1);
        g.end[t] = position + 1;
      }
      g.segments.push_back({segment.row_begin, segment.num_rows, table.data()});
    }
    if (covered != rows) {
      return absl::InternalError("the segments of a step do not cover its rows in order");
    }
  }
  return absl::OkStatus();
}

// The order in which samples are taken, and which of them drafts continue.
absl::Status Runner::State::FindRuns() {
  runs.clear();
  draft_runs.clear();
  segment_runs.assign(batch->segments.size(), -1);
  size_t at = 0;
  for (int s = 0; s < static_cast<int>(batch->samples.size()); ++s) {
    const SampleRequest& request = batch->samples[s];
    while (at < batch->segments.size() &&
           batch->segments[at].row_begin + batch->segments[at].num_rows <= request.row) {
      ++at;
    }
    if (at == batch->segments.size()) {
      return absl::InternalError(
          absl::StrFormat("a sample of a step asks for row %d, which no segment has", request.row));
    }
    const Segment& segment = batch->segments[at];
    const bool draws = request.params != nullptr;
    if (draws && segment.num_drafts > 0 && segment_runs[at] >= 0) {
      runs[segment_runs[at]].last = s + 1;
      continue;
    }
    if (draws) segment_runs[at] = static_cast<int>(runs.size());
    runs.push_back({.first = s, .last = s + 1});
  }
  for (size_t i = 0; i < batch->segments.size(); ++i) {
    const Segment& segment = batch->segments[i];
    if (segment.num_drafts == 0) continue;
    const bool verified =
        segment.num_drafts < segment.num_rows && segment_runs[i] >= 0 &&
        runs[segment_runs[i]].last - runs[segment_runs[i]].first == segment.num_drafts + 1;
    if (!verified) {
      return absl::InternalError(absl::StrFormat(
          "a segment of %d rows with a draft of %d has no sample for each row from the one before "
          "the draft on",
          segment.num_rows, segment.num_drafts));
    }
  }
  for (const DraftRequest& request : batch->drafts) {
    const bool known =
        request.segment >= 0 && request.segment < static_cast<int>(batch->segments.size());
    if (!known || segment_runs[request.segment] < 0 || request.max_tokens < 1) {
      return absl::InternalError(absl::StrFormat(
          "a draft of %d tokens is asked for behind segment %d, which draws nothing",
          request.max_tokens, request.segment));
    }
    draft_runs.push_back(segment_runs[request.segment]);
  }
  handoffs.resize(draft_runs.size() * shape().hidden);
  return absl::OkStatus();
}

// h = E[ids] * s, the rotary tables, and the per-layer inputs.
void Runner::State::Embed() {
  const int rows = live.size();
  ops.embed(ops.backend, {model.weights.embed, batch->ids, model.embed_scale, buffers.h});
  for (const KvGroup group : {kSliding, kFull}) {
    if (stores[group] == nullptr) continue;
    ops.rope_table(ops.backend,
                   {batch->positions, inv_freq[group], buffers.cos[group], buffers.sin[group]});
  }
  Show("embed", -1, live.batch_rows, buffers.h, shape().hidden);
  if (shape().ple_width == 0) return;
  Linear(buffers.h, shape().hidden, model.weights.ple_context, buffers.ple, rows);
  kernels::PleArgs args;
  args.ids = batch->ids;
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

// Keeps only the live rows with these indices (ascending); the others leave the forward.
void Runner::State::Compact(const std::vector<int>& keep) {
  if (static_cast<int>(keep.size()) == live.size()) return;
  const auto move_rows = [&](float* data, size_t dim) {
    for (size_t i = 0; i < keep.size(); ++i) {
      if (static_cast<int>(i) != keep[i])
        std::memcpy(data + i * dim, data + keep[i] * dim, dim * 4);
    }
  };
  move_rows(buffers.h, shape().hidden);
  if (shape().ple_width > 0)
    move_rows(buffers.ple, size_t(shape().num_layers()) * shape().ple_width);
  std::vector<int> new_index(live.size() + 1, 0);  // kept rows before each old row
  for (const int row : keep) new_index[row + 1] = 1;
  std::partial_sum(new_index.begin(), new_index.end(), new_index.begin());
  for (const KvGroup group : {kSliding, kFull}) {
    if (stores[group] == nullptr) continue;
    move_rows(buffers.cos[group], inv_freq[group].size());
    move_rows(buffers.sin[group], inv_freq[group].size());
    LiveRows::Group& g = live.groups[group];
    std::vector<kernels::AttentionSegment> segments;
    for (const kernels::AttentionSegment& segment : g.segments) {
      const int begin = new_index[segment.row_begin];
      const int count = new_index[segment.row_begin + segment.num_rows] - begin;
      if (count > 0) segments.push_back({begin, count, segment.block_table});
    }
    g.segments = std::move(segments);
    for (size_t i = 0; i < keep.size(); ++i) {
      g.cells[i] = g.cells[keep[i]];
      g.begin[i] = g.begin[keep[i]];
      g.end[i] = g.end[keep[i]];
    }
  }
  for (size_t i = 0; i < keep.size(); ++i) live.batch_rows[i] = live.batch_rows[keep[i]];
  live.batch_rows.resize(keep.size());
}

// gemma4.md 2.5, from the normed input to the projected output in buffers.y.
void Runner::State::Attention(int i) {
  const LayerDesc& desc = shape().layers[i];
  const LayerWeights& w = model.weights.layers[i];
  const KvGroup group = desc.group();
  const LiveRows::Group& g = live.groups[group];
  const int rows = live.size();
  Linear(buffers.x, shape().hidden, w.qkv, buffers.qkv, rows);

  const bool owner = desc.kv_owner == i;
  kernels::QkvPostArgs post;
  post.qkv = buffers.qkv;
  post.stride = w.qkv.out;
  post.rows = rows;
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
  post.cells = g.cells.data();
  post.nonfinite = nonfinite.data();  // layers that store have all rows of the step
  post.counts = &encode_counts[group];
  ops.qkv_post(ops.backend, post);

  kernels::AttentionArgs args;
  args.q = buffers.qkv;
  args.q_stride = w.qkv.out;
  args.out = buffers.attn;
  args.segments = g.segments;
  args.visible_begin = g.begin.data();
  args.visible_end = g.end.data();
  args.num_q_heads = desc.num_q_heads;
  args.num_kv_heads = desc.num_kv_heads;
  args.head_dim = desc.head_dim;
  args.kv = views[i];
  ops.attention(ops.backend, args);
  for (int t = 0; t < rows; ++t) {
    work.attention_madds += uint64_t(g.end[t] - g.begin[t]) * desc.num_q_heads * desc.head_dim * 2;
  }
  Linear(buffers.attn, w.o.in, w.o, buffers.y, rows);
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
  args.rows = live.size();
  args.width = width;
  ops.linear_geglu(ops.backend, args);
  work.linear_madds += uint64_t(live.size()) * 2 * width * shape().hidden;
  Linear(buffers.mlp, width, w.down, out, live.size());
}

// gemma4.md 2.7: the dense branch and the chosen experts, both normed, summed in buffers.y.
void Runner::State::Experts(int i) {
  const LayerWeights& w = model.weights.layers[i];
  const int rows = live.size();
  DenseMlp(i, buffers.y);
  RmsNorm(buffers.y, w.post_ffn_norm_1, buffers.y, rows);

  RmsNorm(buffers.h, w.router_scale, buffers.x, rows);
  Linear(buffers.x, shape().hidden, w.router, buffers.router, rows, /*f32_operands=*/true);
  kernels::RouteArgs route;
  route.logits = buffers.router;
  route.rows = rows;
  route.experts = shape().experts;
  route.top_k = shape().experts_per_token;
  route.expert_scale = w.expert_scale;
  route.ids = buffers.expert_ids;
  route.weights = buffers.expert_weights;
  ops.route(ops.backend, route);
  if (*trace) {
    const std::vector<float> ids(buffers.expert_ids,
                                 buffers.expert_ids + size_t(rows) * route.top_k);
    Show("expert_ids", i, live.batch_rows, ids.data(), route.top_k);
    Show("expert_weights", i, live.batch_rows, buffers.expert_weights, route.top_k);
  }

  RmsNorm(buffers.h, w.pre_ffn_norm_2, buffers.x, rows);
  kernels::ExpertsArgs experts;
  experts.x = buffers.x;
  experts.rows = rows;
  experts.dim = shape().hidden;
  experts.width = shape().expert_width;
  experts.top_k = shape().experts_per_token;
  experts.gate_up = w.expert_gate_up;
  experts.down = w.expert_down;
  experts.ids = buffers.expert_ids;
  experts.weights = buffers.expert_weights;
  experts.out = buffers.expert_y;
  ops.experts(ops.backend, experts);
  work.linear_madds += uint64_t(rows) * experts.top_k * 3 * shape().expert_width * shape().hidden;
  NormAdd(buffers.expert_y, w.post_ffn_norm_2, buffers.y, 1.0f);
}

// gemma4.md 2.6, last part; also applies the layer scalar.
void Runner::State::PerLayerEmbedding(int i) {
  const LayerWeights& w = model.weights.layers[i];
  const int width = shape().ple_width;
  const int rows = live.size();
  Linear(buffers.h, shape().hidden, w.ple_gate, buffers.ple_gate, rows);
  kernels::GeluMulArgs gate;
  gate.a = buffers.ple_gate;
  gate.a_stride = width;
  gate.b = buffers.ple + size_t(i) * width;
  gate.b_stride = int64_t{shape().num_layers()} * width;
  gate.y = buffers.ple_gate;
  gate.y_stride = width;
  gate.rows = rows;
  gate.dim = width;
  ops.gelu_mul(ops.backend, gate);
  Linear(buffers.ple_gate, width, w.ple_up, buffers.y, rows);
  NormAdd(buffers.y, w.post_ple_norm, buffers.h, *w.layer_scalar);
}

void Runner::State::Layer(int i) {
  const LayerWeights& w = model.weights.layers[i];
  const int rows = live.size();
  RmsNorm(buffers.h, w.input_norm, buffers.x, rows);
  Attention(i);
  NormAdd(buffers.y, w.post_attn_norm, buffers.h, 1.0f);
  RmsNorm(buffers.h, w.pre_ffn_norm, buffers.x, rows);
  if (shape().layers[i].moe) {
    Experts(i);
  } else {
    DenseMlp(i, buffers.y);
  }
  const bool ple = shape().ple_width > 0;
  NormAdd(buffers.y, w.post_ffn_norm, buffers.h, ple ? 1.0f : *w.layer_scalar);
  if (ple) PerLayerEmbedding(i);
  Show("layer", i, live.batch_rows, buffers.h, shape().hidden);
}

// Samples that read logit rows [logit_begin, ...) are batch.samples [first, last).
void Runner::State::SampleRows(int first, int last, const std::vector<int>& rows, int logit_begin,
                               StepResult& result) {
  struct Context {
    State& state;
    int first, last;
    const std::vector<int>& rows;
    int logit_begin;
    StepResult& result;
    size_t first_run, num_runs;
  };
  const auto ends_before = [](const SampleRun& run, int sample) { return run.last <= sample; };
  const auto run = std::lower_bound(runs.begin(), runs.end(), first, ends_before);
  const auto runs_end = std::lower_bound(
      run, runs.end(), last, [](const SampleRun& r, int sample) { return r.first < sample; });
  Context context{*this,
                  first,
                  last,
                  rows,
                  logit_begin,
                  result,
                  static_cast<size_t>(run - runs.begin()),
                  static_cast<size_t>(runs_end - run)};
  ops.for_each(
      ops.backend, static_cast<int>(std::min<size_t>(kSampleTasks, context.num_runs)),
      [](void* opaque, int task) {
        Context& c = *static_cast<Context*>(opaque);
        State& state = c.state;
        const StepBatch& batch = *state.batch;
        const size_t vocab = state.shape().vocab;
        for (size_t i = task; i < c.num_runs; i += kSampleTasks) {
          SampleRun& run = state.runs[c.first_run + i];
          for (int s = std::max(run.first, c.first); run.open && s < std::min(run.last, c.last);
               ++s) {
            const SampleRequest& request = batch.samples[s];
            const auto row = std::lower_bound(c.rows.begin(), c.rows.end(), request.row);
            const size_t logit_row = row - c.rows.begin() - c.logit_begin;
            const SampledToken& token = c.result.tokens[s] =
                Sample({state.buffers.logits + logit_row * vocab, vocab}, request,
                       state.shape().generation.suppressed_ids, state.sample_scratch[task]);
            run.drawn = s;
            run.open = s + 1 < run.last && token.finite && batch.ids[request.row + 1] == token.id;
          }
        }
      },
      &context);
}

// Of the samples [first, last), those taken last in a run that a draft continues: copies the rows
// they were drawn from. buffers.x holds the normed rows of `chunk`.
void Runner::State::KeepHandoffs(int first, int last, const std::vector<int>& chunk) {
  const size_t hidden = shape().hidden;
  for (size_t i = 0; i < draft_runs.size(); ++i) {
    const int drawn = runs[draft_runs[i]].drawn;
    if (drawn < first || drawn >= last) continue;
    const auto row = std::lower_bound(chunk.begin(), chunk.end(), batch->samples[drawn].row);
    std::memcpy(handoffs.data() + i * hidden, buffers.x + (row - chunk.begin()) * hidden,
                hidden * 4);
  }
}

// The segments with a row that counts and was stored as zeros. Behind a guess that did not hold no
// row counts.
std::vector<int> Runner::State::BrokenSegments() const {
  std::vector<int> broken;
  for (size_t i = 0; i < batch->segments.size(); ++i) {
    const Segment& segment = batch->segments[i];
    const int end = segment.num_drafts > 0 ? batch->samples[runs[segment_runs[i]].drawn].row + 1
                                           : segment.row_begin + segment.num_rows;
    const auto begin = nonfinite.begin();
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
    const SampleRun& run = runs[draft_runs[i]];
    if (!result.tokens[run.drawn].finite) continue;
    for (int s = run.first; s <= run.drawn; ++s) drawn[i].push_back(result.tokens[s].id);
    DraftSlot slot;
    slot.next = batch->samples[run.drawn];
    slot.token = drawn[i].back();
    slot.position = batch->positions[slot.next.row] + 1;
    slot.handoff = {handoffs.data() + i * hidden, hidden};
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

// Final norm and head of the sampled rows (batch row numbers, ascending), a buffer of logits at a
// time, then their tokens.
void Runner::State::Head(const std::vector<int>& rows, StepResult& result) {
  const int hidden = shape().hidden;
  const size_t vocab = shape().vocab;
  const int step = StepLogitRows(config.max_step_rows);
  size_t sample = 0;
  for (size_t begin = 0; begin < rows.size(); begin += step) {
    const int count = static_cast<int>(std::min<size_t>(step, rows.size() - begin));
    const std::vector<int> chunk(rows.begin() + begin, rows.begin() + begin + count);
    for (int r = 0; r < count; ++r) {
      const auto at = std::lower_bound(live.batch_rows.begin(), live.batch_rows.end(), chunk[r]);
      const size_t live_row = at - live.batch_rows.begin();
      std::memcpy(buffers.y + size_t(r) * hidden, buffers.h + live_row * hidden, hidden * 4);
    }
    RmsNorm(buffers.y, model.weights.final_norm, buffers.x, count);
    Show("hidden", -1, chunk, buffers.x, hidden);
    Linear(buffers.x, hidden, model.weights.head, buffers.logits, count);
    if (shape().logit_softcap > 0) {
      ops.softcap(ops.backend,
                  {buffers.logits, static_cast<int64_t>(count * vocab), shape().logit_softcap});
    }
    Show("logits", -1, chunk, buffers.logits, vocab);
    size_t last = sample;
    while (last < batch->samples.size() && batch->samples[last].row <= chunk.back()) ++last;
    SampleRows(static_cast<int>(sample), static_cast<int>(last), rows, static_cast<int>(begin),
               result);
    KeepHandoffs(static_cast<int>(sample), static_cast<int>(last), chunk);
    sample = last;
  }
}

Runner::Runner(std::unique_ptr<State> state) : state_(std::move(state)) {}
Runner::~Runner() = default;

size_t Runner::ScratchBytes(const ModelConfig& config, const RunnerConfig& runner_config) {
  StepBuffers buffers;
  return LayOutStepBuffers(config, runner_config.max_step_rows, nullptr, buffers);
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
  for (const KvGroup group : {kSliding, kFull}) state->inv_freq[group] = shape.InvFreq(group);
  absl::StatusOr<kernels::HugeMemory> memory =
      kernels::HugeMemory::Allocate(ScratchBytes(shape, config));
  if (!memory.ok()) return memory.status();
  state->memory = *std::move(memory);
  LayOutStepBuffers(shape, config.max_step_rows, state->memory.data(), state->buffers);
  return std::unique_ptr<Runner>(new Runner(std::move(state)));
}

absl::Status Runner::Run(const StepBatch& batch, StepResult& result, const StepTrace& trace) {
  State& s = *state_;
  s.batch = &batch;
  s.trace = &trace;
  result = {};
  result.tokens.resize(batch.samples.size());
  result.drafts.resize(batch.drafts.size());
  if (absl::Status status = s.CopyBlocks(batch); !status.ok()) return status;
  if (absl::Status status = s.BeginStep(batch); !status.ok()) return status;
  if (absl::Status status = s.FindRuns(); !status.ok()) return status;

  std::vector<int> sampled;  // batch rows whose output is wanted, ascending, each once
  for (const SampleRequest& request : batch.samples) {
    if (sampled.empty() || sampled.back() != request.row) sampled.push_back(request.row);
  }
  s.Embed();
  for (int i = 0; i < s.shape().num_layers(); ++i) {
    if (i == s.shape().first_shared) s.Compact(sampled);  // nothing above stores K/V
    if (s.live.size() == 0) break;
    s.Layer(i);
  }
  s.Head(sampled, result);
  result.broken_segments = s.BrokenSegments();
  if (s.propose && !batch.drafts.empty()) s.ProposeDrafts(result);
  return absl::OkStatus();
}

const WorkCounters& Runner::work() const { return state_->work; }

const kernels::KvEncodeCounts& Runner::encode_counts(KvGroup group) const {
  return state_->encode_counts[group];
}

}  // namespace tandem::engine
