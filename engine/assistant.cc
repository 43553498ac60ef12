#include "engine/assistant.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/backend_values.h"
#include "engine/draft_buffers.h"
#include "engine/draft_choice.h"
#include "engine/pick_tokens.h"
#include "engine/step_rows.h"
#include "kvcache/kv_formats.h"

namespace tandem::engine {
namespace {

constexpr int kChooseTasks = 16;  // rows that choose at the same time, each with its own scratch

// A sequence in a chain. Rows are ordered by falling max_tokens, so that those of any step are the
// first ones and nothing moves when a draft is complete.
struct ChainRow {
  const DraftSlot* slot = nullptr;
  int slot_index = 0;
  Draft* draft = nullptr;
  bool open = true;   // false: its draft has ended on a value that is not finite; the row runs on
  int32_t token = 0;  // to be fed
  std::vector<int32_t> drafted;  // drawn by the target in this step, and guessed since
};

}  // namespace

struct Assistant::State {
  State(const AssistantModel& assistant, const Model& target, const kernels::Ops& ops,
        const AssistantRunConfig& config)
      : assistant(assistant), target(target), ops(ops), config(config) {}

  const AssistantModel& assistant;
  const Model& target;
  const kernels::Ops& ops;
  AssistantRunConfig config;
  std::vector<DraftOp> program;
  kernels::Memory memory;
  DraftBuffers buffers;
  std::array<std::span<const float>, kNumKvGroups> inv_freq;  // of the backend
  std::array<HeadCounts, kNumKvGroups> heads;
  BlockTokens block_tokens = {};
  std::vector<int32_t> cluster_ids;    // AssistantWeights::cluster_ids
  std::vector<kernels::KvView> views;  // [layers] of the layer's donor
  std::array<ChoiceScratch, kChooseTasks> scratch;
  WorkCounters work;

  // Of the chain that runs.
  struct Group {
    std::vector<int32_t> begin, end;  // [rows] visible positions
    std::vector<kernels::AttentionSegment> segments;
  };
  const DraftTrace* trace = nullptr;
  std::vector<ChainRow> rows;
  std::vector<int32_t> ids, positions;  // [rows]
  std::array<Group, kNumKvGroups> groups;
  kernels::StagedRows staged;
  std::vector<int32_t> clusters;  // [chunk rows, clusters per token], rising
  std::vector<int32_t> picked;    // [chunk rows] what the backend drew
  float* logits = nullptr;        // what the chunk's rows choose from, on the host
  int step = 0;
  int live = 0;         // rows of this step
  int chunk_begin = 0;  // of the chunk of logits, as the next
  int chunk_rows = 0;

  const AssistantConfig& shape() const { return assistant.config; }
  const AssistantWeights& weights() const { return assistant.weights; }
  void* OperandRow(void* operands, int64_t row, int64_t dim) const {
    return static_cast<std::byte*>(operands) + row * dim * static_cast<int64_t>(ops.operand_bytes);
  }
  void* HandoffRow(int row) const {
    return OperandRow(buffers.u, 2 * int64_t{row} + 1, shape().backbone_hidden);
  }
  std::span<const int32_t> StagedSpan(const int32_t* values) const {
    return {values, static_cast<size_t>(staged.rows)};
  }

  std::span<int32_t> ClustersOf(int row) {
    const size_t top = shape().clusters_per_token;
    return {clusters.data() + (row - chunk_begin) * top, top};
  }

  void PlaceConstants();
  absl::Status FindDonors(std::array<kvcache::BlockStore*, kNumKvGroups> stores);
  void BeginChain();
  void Stage();
  int RowsOfStep(int of_step) const;
  int RunChain();
  // Brings [chunk rows, dim] values that these rows choose from to the host.
  void FetchChunk(float* values, size_t dim) {
    logits = static_cast<float*>(ops.fetch(ops.backend, values, chunk_rows * dim * sizeof(float)));
  }
  void RunHead(size_t begin, size_t end);
  void Execute(const DraftOp& op);
  void RunLayer(const DraftOp& op);
  void ChooseClustersOf(int row, ChoiceScratch& scratch);
  SampleRequest RequestOf(const ChainRow& row) const;
  bool PickChunk();
  void ChooseTokenOf(int row, ChoiceScratch& scratch);
  void Close(int row);
  void Show(const DraftOp& op);

  void Linear(const void* x, int64_t x_stride, const kernels::WeightView& w, void* y,
              int64_t y_stride, int count, bool y_operands = false) {
    ops.linear(ops.backend, {.x = x,
                             .x_stride = x_stride,
                             .w = w,
                             .y = y,
                             .y_stride = y_stride,
                             .rows = count,
                             .y_operands = y_operands});
    work.linear_madds += uint64_t(count) * w.out * w.in;
  }
  void RmsNorm(const float* weight) {
    ops.rms_norm(ops.backend,
                 {buffers.x, weight, buffers.n, live, shape().hidden, shape().rms_eps});
  }
  void NormAdd(const float* weight, const float* scale = nullptr) {
    ops.norm_add(ops.backend,
                 {buffers.y, weight, buffers.x, live, shape().hidden, shape().rms_eps, scale});
  }

  // fn(row, scratch) for the rows of the chunk, on any thread.
  template <typename Fn>
  void ForChunkRows(const Fn& fn) {
    struct Context {
      State& state;
      const Fn& fn;
      int tasks;
    };
    Context context{*this, fn, std::min(kChooseTasks, chunk_rows)};
    ops.for_each(
        ops.backend, context.tasks,
        [](void* opaque, int task) {
          Context& c = *static_cast<Context*>(opaque);
          for (int i = task; i < c.state.chunk_rows; i += c.tasks) {
            c.fn(c.state.chunk_begin + i, c.state.scratch[task]);
          }
        },
        &context);
  }
};

// The donors that FitToTarget resolved are what their layers are taken for, and can be read.
absl::Status Assistant::State::FindDonors(std::array<kvcache::BlockStore*, kNumKvGroups> stores) {
  const ModelConfig& model = target.config;
  if (shape().backbone_hidden != model.hidden || shape().vocab != model.vocab) {
    return absl::InternalError(absl::StrFormat(
        "an assistant for hidden size %d and vocabulary %d meets a target with %d and %d",
        shape().backbone_hidden, shape().vocab, model.hidden, model.vocab));
  }
  for (int i = 0; i < shape().num_layers(); ++i) {
    const LayerDesc& layer = shape().layers[i];
    const bool known = layer.kv_owner >= 0 && layer.kv_owner < model.num_layers();
    const LayerDesc donor = known ? model.layers[layer.kv_owner] : LayerDesc{};
    const kvcache::BlockStore* store = stores[layer.group()];
    const bool fits = known && donor.kv_owner == layer.kv_owner && donor.full == layer.full &&
                      donor.head_dim == layer.head_dim && donor.window == layer.window &&
                      donor.num_kv_heads == layer.num_kv_heads &&
                      donor.kv_index == layer.kv_index && store != nullptr &&
                      layer.kv_index < static_cast<int>(store->layout().layers.size());
    if (!fits || layer.num_q_heads % layer.num_kv_heads != 0) {
      return absl::InternalError(absl::StrFormat(
          "assistant layer %d: layer %d of the target is no donor for it", i, layer.kv_owner));
    }
    const kernels::KvView view = store->View(layer.kv_index);
    if (!ops.supports({layer.head_dim, view.k_format, view.v_format})) {
      return absl::UnimplementedError(absl::StrFormat(
          "assistant layer %d has head size %d and KV formats %s/%s, for which %s has no attention "
          "kernel",
          i, layer.head_dim, kvcache::KvFormatName(view.k_format),
          kvcache::KvFormatName(view.v_format), ops.name));
    }
    views.push_back(view);
  }
  for (const KvGroup group : {kSliding, kFull}) {
    if (stores[group] != nullptr) block_tokens[group] = stores[group]->layout().block_tokens;
    const size_t pairs = shape().InvFreq(group).size();
    if (pairs != 0 && model.InvFreq(group).size() != pairs) {
      return absl::InternalError("the assistant rotates other pairs than the target");
    }
  }
  return FindHeadCounts(shape().layers, heads);
}

// What stays in the backend's memory, and what the host needs to know of it.
void Assistant::State::PlaceConstants() {
  for (const KvGroup group : {kSliding, kFull}) {
    if (shape().InvFreq(group).empty()) continue;                    // no layer of this group
    const std::vector<float> values = target.config.InvFreq(group);  // the rotation of donors' K
    WriteFloats(ops, values, buffers.inv_freq[group]);
    inv_freq[group] = {buffers.inv_freq[group], values.size()};
  }
  const std::vector<uint32_t> suppressed = BitsOf(shape().suppressed_ids, shape().vocab);
  ops.write(ops.backend, buffers.suppressed, suppressed.data(),
            suppressed.size() * sizeof(uint32_t));
  if (!shape().clustered) return;
  const size_t bytes = size_t(shape().vocab) * sizeof(int32_t);
  const auto* ids = static_cast<const int32_t*>(
      ops.fetch(ops.backend, const_cast<int32_t*>(weights().cluster_ids), bytes));
  cluster_ids.assign(ids, ids + shape().vocab);
}

// What holds for all steps: where every row stands and which rows of the donors it sees.
void Assistant::State::BeginChain() {
  const size_t count = rows.size();
  ids.resize(count);
  positions.resize(count);
  for (const KvGroup group : {kSliding, kFull}) {
    Group& g = groups[group];
    g.begin.resize(count);
    g.end.resize(count);
    g.segments.resize(count);
  }
  for (size_t r = 0; r < count; ++r) {
    const DraftSlot& slot = *rows[r].slot;
    const int32_t committed = slot.position;
    positions[r] = committed;
    for (const KvGroup group : {kSliding, kFull}) {
      Group& g = groups[group];
      g.begin[r] = group == kFull ? 0 : std::max(0, committed - target.config.sliding_window + 1);
      g.end[r] = committed;
      g.segments[r] = {static_cast<int>(r), 1, slot.block_table[group].data()};
    }
    ids[r] = rows[r].token;
  }
}

// Hands the rows of the step to the backend.
void Assistant::State::Stage() {
  kernels::RowsArgs args;
  args.ids = std::span(ids).first(live);
  args.positions = std::span(positions).first(live);
  for (const KvGroup group : {kSliding, kFull}) {
    if (heads[group].q == 0) continue;
    args.groups[group] = {.cells = {},
                          .visible_begin = std::span(groups[group].begin).first(live),
                          .visible_end = std::span(groups[group].end).first(live),
                          .segments = std::span(groups[group].segments).first(live),
                          .block_tokens = block_tokens[group],
                          .num_q_heads = heads[group].q,
                          .num_kv_heads = heads[group].kv};
  }
  staged = ops.stage(ops.backend, args);
}

int Assistant::State::RowsOfStep(int of_step) const {
  const auto wants_more = [of_step](const ChainRow& row) { return row.slot->max_tokens > of_step; };
  return static_cast<int>(std::partition_point(rows.begin(), rows.end(), wants_more) -
                          rows.begin());
}

// The guesses of all rows; returns the steps that ran.
int Assistant::State::RunChain() {
  using Runs = DraftOp::Runs;
  BeginChain();
  step = 0;
  live = RowsOfStep(0);
  Stage();
  for (const DraftOp& op : program) {
    if (op.runs == Runs::kPerChain) Execute(op);
  }
  for (;;) {
    if (step > 0) {
      for (int r = 0; r < live; ++r) ids[r] = rows[r].token;
      Stage();
    }
    const auto open = [](const ChainRow& row) { return row.open; };
    if (std::none_of(rows.begin(), rows.begin() + live, open)) return step;
    for (size_t i = 0; i < program.size(); ++i) {
      if (program[i].runs == Runs::kPerStep) Execute(program[i]);
      if (program[i].runs == Runs::kPerChunk) {
        const size_t begin = i;
        while (i + 1 < program.size() && program[i + 1].runs == Runs::kPerChunk) ++i;
        RunHead(begin, i + 1);
      }
    }
    live = RowsOfStep(step + 1);
    if (live == 0) return step + 1;
    for (const DraftOp& op : program) {
      if (op.runs == Runs::kBetweenSteps) Execute(op);
    }
    ++step;
  }
}

// Operations [begin, end) of the program for every chunk of the rows.
void Assistant::State::RunHead(size_t begin, size_t end) {
  const int chunk = LogitRows(shape(), config.max_slots);
  for (chunk_begin = 0; chunk_begin < live; chunk_begin += chunk) {
    chunk_rows = std::min(chunk, live - chunk_begin);
    for (size_t i = begin; i < end; ++i) Execute(program[i]);
  }
}

void Assistant::State::Execute(const DraftOp& op) {
  using Kind = DraftOp::Kind;
  const int d = shape().hidden;
  const int backbone = shape().backbone_hidden;
  const void* z = OperandRow(buffers.n, chunk_begin, d);  // of the chunk
  switch (op.kind) {
    case Kind::kHandoffs:
      for (int r = 0; r < live; ++r) {
        const std::span<const std::byte> handoff = rows[r].slot->handoff;
        ops.copy(ops.backend, HandoffRow(r), handoff.data(), handoff.size());
      }
      break;
    case Kind::kRope:
      ops.rope_table(ops.backend, {StagedSpan(staged.positions), inv_freq[op.group],
                                   buffers.cos[op.group], buffers.sin[op.group]});
      break;
    case Kind::kEmbed:
      ops.embed(ops.backend, {target.weights.embed, StagedSpan(staged.ids), target.embed_scale,
                              buffers.u, 2 * int64_t{backbone}, /*out_operands=*/true});
      break;
    case Kind::kPre:
      Linear(buffers.u, 2 * int64_t{backbone}, weights().pre, buffers.x, d, live);
      break;
    case Kind::kFinalNorm:
      RmsNorm(weights().final_norm);
      break;
    case Kind::kLogits:
      Linear(z, d, weights().head, buffers.logits, shape().vocab, chunk_rows);
      break;
    case Kind::kCentroids:
      Linear(z, d, weights().centroids, buffers.scores, shape().num_clusters, chunk_rows);
      break;
    case Kind::kChooseClusters:
      FetchChunk(buffers.scores, shape().num_clusters);
      clusters.resize(size_t(chunk_rows) * shape().clusters_per_token);
      ForChunkRows([this](int row, ChoiceScratch& s) { ChooseClustersOf(row, s); });
      ops.write(ops.backend, buffers.clusters, clusters.data(), clusters.size() * sizeof(int32_t));
      break;
    case Kind::kClusterLogits:
      ops.linear_clusters(ops.backend, {.x = z,
                                        .x_stride = d,
                                        .first = weights().first_cluster,
                                        .cluster_elements = weights().cluster_elements,
                                        .ids = buffers.clusters,
                                        .chosen = shape().clusters_per_token,
                                        .y = buffers.logits,
                                        .y_stride = static_cast<int64_t>(LogitsPerRow(shape())),
                                        .rows = chunk_rows});
      work.linear_madds += uint64_t(chunk_rows) * LogitsPerRow(shape()) * d;
      break;
    case Kind::kSoftcap:
      ops.softcap(ops.backend,
                  {buffers.logits, static_cast<int64_t>(chunk_rows * LogitsPerRow(shape())),
                   shape().logit_softcap});
      break;
    case Kind::kChooseToken:
      if (!PickChunk()) FetchChunk(buffers.logits, LogitsPerRow(shape()));
      ForChunkRows([this](int row, ChoiceScratch& s) { ChooseTokenOf(row, s); });
      break;
    case Kind::kPost:
      Linear(buffers.n, d, weights().post, HandoffRow(0), 2 * int64_t{backbone}, live,
             /*y_operands=*/true);
      break;
    default:
      RunLayer(op);
      break;
  }
  if (*trace) Show(op);
}

void Assistant::State::RunLayer(const DraftOp& op) {
  using Kind = DraftOp::Kind;
  const LayerDesc& desc = shape().layers[op.layer];
  const LayerWeights& w = weights().layers[op.layer];
  const Group& g = groups[desc.group()];
  const int d = shape().hidden;
  const int width = desc.num_q_heads * desc.head_dim;
  switch (op.kind) {
    case Kind::kInputNorm:
      return RmsNorm(w.input_norm);
    case Kind::kQuery:
      return Linear(buffers.n, d, w.qkv, buffers.q, width, live);
    case Kind::kQueryPost: {
      kernels::QkvPostArgs args;
      args.qkv = buffers.q;
      args.stride = width;
      args.rows = live;
      args.num_q_heads = desc.num_q_heads;
      args.num_kv_heads = 0;  // nothing is stored
      args.head_dim = desc.head_dim;
      args.q_norm = w.q_norm;
      args.cos = buffers.cos[desc.group()];
      args.sin = buffers.sin[desc.group()];
      args.live = static_cast<int>(inv_freq[desc.group()].size());
      args.eps = shape().rms_eps;
      args.kv = views[op.layer];
      return ops.qkv_post(ops.backend, args);
    }
    case Kind::kAttention:
      for (int r = 0; r < live; ++r) {
        work.attention_madds += uint64_t(g.end[r] - g.begin[r]) * width * 2;
      }
      return ops.attention(ops.backend, {.q = buffers.q,
                                         .q_stride = width,
                                         .out = buffers.attn,
                                         .segments = std::span(g.segments).first(live),
                                         .visible_begin = staged.visible_begin[desc.group()],
                                         .visible_end = staged.visible_end[desc.group()],
                                         .group = desc.group(),
                                         .num_q_heads = desc.num_q_heads,
                                         .num_kv_heads = desc.num_kv_heads,
                                         .head_dim = desc.head_dim,
                                         .kv = views[op.layer]});
    case Kind::kOutput:
      return Linear(buffers.attn, width, w.o, buffers.y, d, live);
    case Kind::kAttentionAdd:
      return NormAdd(w.post_attn_norm);
    case Kind::kFfnNorm:
      return RmsNorm(w.pre_ffn_norm);
    case Kind::kGateUp:
      work.linear_madds += uint64_t(live) * 2 * desc.mlp_width * d;
      return ops.linear_geglu(ops.backend, {.x = buffers.n,
                                            .x_stride = d,
                                            .w = w.gate_up,
                                            .y = buffers.mlp,
                                            .y_stride = desc.mlp_width,
                                            .rows = live,
                                            .width = desc.mlp_width});
    case Kind::kDown:
      return Linear(buffers.mlp, desc.mlp_width, w.down, buffers.y, d, live);
    case Kind::kFfnAdd:
      return NormAdd(w.post_ffn_norm, w.layer_scalar);
    default:
      return;
  }
}

void Assistant::State::Close(int row) {
  rows[row].open = false;
  rows[row].draft->finite = false;
}

void Assistant::State::ChooseClustersOf(int row, ChoiceScratch& s) {
  const size_t count = shape().num_clusters;
  const std::span<const float> scores(logits + (row - chunk_begin) * count, count);
  // A row that is closed gets clusters too: the product reads them.
  if (!ChooseClusters(scores, ClustersOf(row), s) && rows[row].open) Close(row);
}

// How the row's guess of this step is drawn.
SampleRequest Assistant::State::RequestOf(const ChainRow& row) const {
  SampleRequest request = row.slot->next;
  request.position += step;
  request.drafted = row.drafted;
  request.logprobs = {};
  return request;
}

// Draws for those of the chunk's rows for which the backend can; whether these are all.
bool Assistant::State::PickChunk() {
  if (shape().clustered) return false;
  std::vector<kernels::PickRequest> picks;
  std::vector<int> picked_rows;
  bool all = true;
  for (int i = 0; i < chunk_rows; ++i) {
    const ChainRow& row = rows[chunk_begin + i];
    if (!row.open) continue;
    const SampleRequest request = RequestOf(row);
    if (!PickedByBackend(ops, request)) {
      all = false;
      continue;
    }
    picks.push_back(PickFor(request, i));
    picked_rows.push_back(i);
  }
  if (picks.empty()) return false;
  std::vector<int32_t> ids(picks.size());
  ops.pick(ops.backend, {.logits = buffers.logits,
                         .vocab = shape().vocab,
                         .suppressed = buffers.suppressed,
                         .requests = picks,
                         .ids = ids.data()});
  picked.assign(chunk_rows, -1);
  for (size_t i = 0; i < picks.size(); ++i) picked[picked_rows[i]] = ids[i];
  return all;
}

void Assistant::State::ChooseTokenOf(int row, ChoiceScratch& s) {
  ChainRow& r = rows[row];
  if (!r.open) return;
  const int in_chunk = row - chunk_begin;
  const size_t per_row = LogitsPerRow(shape());
  const SampleRequest request = RequestOf(r);
  const auto row_logits = [&] { return std::span<float>(logits + in_chunk * per_row, per_row); };
  SampledToken guess;
  if (shape().clustered) {
    guess = GuessFromClusters(row_logits(), ClustersOf(row), shape().cluster_rows(),
                              cluster_ids.data(), request, shape().suppressed_ids, s);
  } else if (PickedByBackend(ops, request)) {
    guess = {.id = picked[in_chunk], .finite = picked[in_chunk] >= 0};
  } else {
    guess = GuessFromRow(row_logits(), request, shape().suppressed_ids, s);
  }
  if (!guess.finite) return Close(row);
  r.token = guess.id;
  r.drafted.push_back(guess.id);
  r.draft->ids.push_back(guess.id);
}

void Assistant::State::Show(const DraftOp& op) {
  using Kind = DraftOp::Kind;
  const int64_t backbone = shape().backbone_hidden;
  const bool chunked = op.runs == DraftOp::Runs::kPerChunk;
  const int begin = chunked ? chunk_begin : 0;
  const int count = chunked ? chunk_rows : live;
  std::vector<int> slots;
  for (int r = begin; r < begin + count; ++r) slots.push_back(rows[r].slot_index);
  std::vector<float> values;
  const auto show = [&](const float* data, int64_t dim) {
    (*trace)(op, step, slots, {data, static_cast<size_t>(count * dim)});
  };
  const auto show_of = [&](const void* data, int64_t dim, bool operands) {
    FetchFloats(ops, data, count * dim, operands, values);
    show(values.data(), dim);
  };
  const auto show_half = [&](int half) {  // of u
    FetchFloats(ops, buffers.u, 2 * count * backbone, /*operands=*/true, values);
    for (int64_t r = 0; r < count; ++r) {
      std::copy_n(values.begin() + (2 * r + half) * backbone, backbone,
                  values.begin() + r * backbone);
    }
    show(values.data(), backbone);
  };
  const int64_t d = shape().hidden;
  const LayerDesc layer = op.layer >= 0 ? shape().layers[op.layer] : LayerDesc{};
  switch (op.kind) {
    case Kind::kHandoffs:
    case Kind::kPost:
      return show_half(1);
    case Kind::kEmbed:
      return show_half(0);
    case Kind::kRope:
      return show_of(buffers.cos[op.group], static_cast<int64_t>(inv_freq[op.group].size()), false);
    case Kind::kPre:
    case Kind::kAttentionAdd:
    case Kind::kFfnAdd:
      return show_of(buffers.x, d, false);
    case Kind::kInputNorm:
    case Kind::kFfnNorm:
    case Kind::kFinalNorm:
      return show_of(buffers.n, d, true);
    case Kind::kQuery:
    case Kind::kQueryPost:
      return show_of(buffers.q, int64_t{layer.num_q_heads} * layer.head_dim, false);
    case Kind::kAttention:
      return show_of(buffers.attn, int64_t{layer.num_q_heads} * layer.head_dim, true);
    case Kind::kOutput:
    case Kind::kDown:
      return show_of(buffers.y, d, false);
    case Kind::kGateUp:
      return show_of(buffers.mlp, layer.mlp_width, true);
    case Kind::kLogits:
    case Kind::kClusterLogits:
    case Kind::kSoftcap:
      return show_of(buffers.logits, static_cast<int64_t>(LogitsPerRow(shape())), false);
    case Kind::kCentroids:
      return show_of(buffers.scores, shape().num_clusters, false);
    case Kind::kChooseClusters:
      values.assign(clusters.begin(), clusters.end());
      return show(values.data(), shape().clusters_per_token);
    case Kind::kChooseToken:
      for (int r = begin; r < begin + count; ++r) {
        values.push_back(rows[r].open ? static_cast<float>(rows[r].token) : -1.0f);
      }
      return show(values.data(), 1);
  }
}

Assistant::Assistant(std::unique_ptr<State> state) : state_(std::move(state)) {}
Assistant::~Assistant() = default;

size_t Assistant::ScratchBytes(const AssistantConfig& config, const AssistantRunConfig& run_config,
                               size_t operand_bytes) {
  DraftBuffers buffers;
  return LayOutDraftBuffers(config, run_config.max_slots, operand_bytes, nullptr, buffers);
}

absl::StatusOr<std::unique_ptr<Assistant>> Assistant::Create(
    const AssistantModel& assistant, const Model& target, const kernels::Ops& ops,
    std::array<kvcache::BlockStore*, kNumKvGroups> stores, const AssistantRunConfig& config) {
  if (config.max_slots < 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("max_slots is %d; at least 1", config.max_slots));
  }
  auto state = std::make_unique<State>(assistant, target, ops, config);
  if (absl::Status status = state->FindDonors(stores); !status.ok()) return status;
  state->program = MakeDraftProgram(assistant.config);
  absl::StatusOr<kernels::Memory> memory =
      ops.memory.Allocate(ScratchBytes(assistant.config, config, ops.operand_bytes));
  if (!memory.ok()) return memory.status();
  state->memory = *std::move(memory);
  LayOutDraftBuffers(assistant.config, config.max_slots, ops.operand_bytes, state->memory.data(),
                     state->buffers);
  state->PlaceConstants();
  return std::unique_ptr<Assistant>(new Assistant(std::move(state)));
}

int Assistant::Propose(std::span<const DraftSlot> slots, std::span<Draft> drafts,
                       const DraftTrace& trace) {
  State& s = *state_;
  s.trace = &trace;
  std::vector<int> order(slots.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return slots[a].max_tokens > slots[b].max_tokens; });
  int steps = 0;
  for (size_t begin = 0; begin < order.size(); begin += s.config.max_slots) {
    const size_t end = std::min(order.size(), begin + s.config.max_slots);
    s.rows.clear();
    for (size_t i = begin; i < end; ++i) {
      const DraftSlot& slot = slots[order[i]];
      drafts[order[i]] = {};
      s.rows.push_back({.slot = &slot,
                        .slot_index = order[i],
                        .draft = &drafts[order[i]],
                        .token = slot.token,
                        .drafted = {slot.drawn.begin(), slot.drawn.end()}});
    }
    steps += s.RunChain();
  }
  return steps;
}

std::span<const DraftOp> Assistant::program() const { return state_->program; }

const WorkCounters& Assistant::work() const { return state_->work; }

double Assistant::StepBytes(int slots) const {
  const AssistantConfig& config = state_->shape();
  const AssistantWeights& w = state_->assistant.weights;
  const auto matrix = [](const kernels::WeightView& view) {
    return static_cast<double>(kernels::PackedBytes(view.format, view.out, view.in));
  };
  double bytes = matrix(w.pre) + matrix(w.post);
  for (const LayerWeights& layer : w.layers) {
    bytes += matrix(layer.qkv) + matrix(layer.o) + matrix(layer.gate_up) + matrix(layer.down);
  }
  bytes += double(slots) * sizeof(kernels::Bf16) * config.backbone_hidden;
  if (!config.clustered) return bytes + matrix(w.head);
  const double cluster = sizeof(kernels::Bf16) * double(w.cluster_elements);
  return bytes + matrix(w.centroids) + double(slots) * config.clusters_per_token * cluster;
}

}  // namespace tandem::engine
