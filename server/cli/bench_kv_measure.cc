#include "server/cli/bench_kv_measure.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "bench/random.h"
#include "engine/kv_layers.h"
#include "kvcache/block_store.h"
#include "kvcache/block_table.h"
#include "server/cli/console.h"
#include "server/cli/format.h"

namespace tandem::server {
namespace {

using engine::kFull;
using engine::kSliding;

constexpr int kMostPasses = 1000;
constexpr int kCachesFull = 4;

// Seeded values around 0 with variance 1.
std::vector<float> RandomFloats(size_t count, uint64_t stream) {
  constexpr double kWidth = 3.4641016;  // sqrt(12)
  bench::Random random(/*seed=*/1, stream);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>((random.Unit() - 0.5) * kWidth);
  return values;
}

double RowBytes(const std::vector<kvcache::LayerKv>& layers) {
  size_t bytes = 0;
  for (const kvcache::LayerKv& layer : layers) {
    bytes += layer.num_kv_heads * (kernels::KvRowBytes(layer.k, layer.head_dim) +
                                   kernels::KvRowBytes(layer.v, layer.head_dim) +
                                   kvcache::KvScaleBytes(layer.k) + kvcache::KvScaleBytes(layer.v));
  }
  return static_cast<double>(bytes);
}

// The layers of one group that store KV, with blocks full of rows and what the operations are fed.
class Bed {
 public:
  static absl::StatusOr<Bed> Create(const engine::ModelConfig& config, engine::KvGroup group,
                                    const KvChoice& choice, int block_tokens, int blocks,
                                    const kernels::Ops& ops) {
    absl::StatusOr<std::vector<kvcache::LayerKv>> layers =
        engine::KvLayers(config, group, choice.formats);
    if (!layers.ok()) return layers.status();
    const double row_bytes = RowBytes(*layers);
    absl::StatusOr<kvcache::GroupLayout> layout =
        kvcache::MakeGroupLayout(block_tokens, *std::move(layers));
    if (!layout.ok()) return layout.status();
    absl::StatusOr<kvcache::BlockStore> store = kvcache::BlockStore::Create(
        *std::move(layout), std::max(blocks, kEncodeRows / block_tokens));
    if (!store.ok()) return store.status();
    Bed bed(*std::move(store), row_bytes, ops);
    for (const int owner : config.KvOwners(group)) bed.descs_.push_back(config.layers[owner]);
    bed.MakeInputs(config, group);
    return bed;
  }

  // Stores kEncodeRows rows in every layer, from block 0 on.
  void Encode() {
    for (size_t layer = 0; layer < descs_.size(); ++layer) {
      const engine::LayerDesc& desc = descs_[layer];
      kernels::QkvPostArgs args;
      args.qkv = qkv_.data();
      args.stride = Columns(desc);
      args.rows = kEncodeRows;
      args.num_q_heads = desc.num_q_heads;
      args.num_kv_heads = desc.num_kv_heads;
      args.head_dim = desc.head_dim;
      args.has_v = desc.has_v_proj;
      args.q_norm = norm_.data();
      args.k_norm = norm_.data();
      args.cos = cos_.data();
      args.sin = sin_.data();
      args.live = live_;
      args.eps = 1e-6f;
      args.kv = store_.View(static_cast<int>(layer));
      args.cells = cells_.data();
      ops_->qkv_post(ops_->backend, args);
    }
  }

  // Puts rows into every block, and gives each of `sequences` the blocks for `visible` positions.
  void Fill(int sequences, int visible) {
    const int block_tokens = store_.layout().block_tokens;
    const int first_blocks = kEncodeRows / block_tokens;
    for (int block = 0; block < first_blocks; ++block) store_.PrepareBlock(block);
    Encode();
    for (int block = first_blocks; block < store_.num_blocks(); ++block) {
      std::memcpy(store_.block(block), store_.block(block % first_blocks), store_.layout().block_bytes);
    }
    table_.resize(store_.num_blocks());
    std::iota(table_.begin(), table_.end(), 0);
    bench::Random random(/*seed=*/2, /*stream=*/0);
    for (size_t i = table_.size(); i > 1; --i) std::swap(table_[i - 1], table_[random.Below(i)]);
    const int blocks_each = kvcache::BlocksFor(visible, block_tokens);
    segments_.clear();
    for (int s = 0; s < sequences; ++s) {
      segments_.push_back({s, 1, table_.data() + static_cast<size_t>(s) * blocks_each});
    }
    visible_begin_.assign(sequences, 0);
    visible_end_.assign(sequences, visible);
    size_t widest = 0;
    for (const engine::LayerDesc& desc : descs_) {
      widest = std::max(widest, static_cast<size_t>(desc.num_q_heads) * desc.head_dim);
    }
    q_ = RandomFloats(sequences * widest, /*stream=*/3);
    // Dot products of variance 1, as after a query's norm.
    for (float& value : q_) value /= std::sqrt(static_cast<float>(descs_[0].head_dim));
    out_.resize(q_.size());
  }

  // One row of every sequence in every layer; after Fill.
  void Attend() {
    for (size_t layer = 0; layer < descs_.size(); ++layer) {
      const engine::LayerDesc& desc = descs_[layer];
      kernels::AttentionArgs args;
      args.q = q_.data();
      args.q_stride = int64_t{desc.num_q_heads} * desc.head_dim;
      args.out = out_.data();
      args.segments = segments_;
      args.visible_begin = visible_begin_.data();
      args.visible_end = visible_end_.data();
      args.num_q_heads = desc.num_q_heads;
      args.num_kv_heads = desc.num_kv_heads;
      args.head_dim = desc.head_dim;
      args.kv = store_.View(static_cast<int>(layer));
      ops_->attention(ops_->backend, args);
    }
  }

  double bytes_per_token() const {
    return static_cast<double>(store_.bytes()) /
           (static_cast<double>(store_.num_blocks()) * store_.layout().block_tokens);
  }
  double row_bytes() const { return row_bytes_; }

 private:
  Bed(kvcache::BlockStore store, double row_bytes, const kernels::Ops& ops)
      : store_(std::move(store)), row_bytes_(row_bytes), ops_(&ops) {}

  static int64_t Columns(const engine::LayerDesc& desc) {
    const int stored = desc.has_v_proj ? 2 : 1;
    return int64_t{desc.num_q_heads + stored * desc.num_kv_heads} * desc.head_dim;
  }

  void MakeInputs(const engine::ModelConfig& config, engine::KvGroup group) {
    int64_t columns = 0;
    int head_dim = 0;
    for (const engine::LayerDesc& desc : descs_) {
      columns = std::max(columns, Columns(desc));
      head_dim = std::max(head_dim, desc.head_dim);
    }
    qkv_ = RandomFloats(static_cast<size_t>(columns) * kEncodeRows, /*stream=*/1);
    norm_.assign(head_dim, 1.0f);
    live_ = static_cast<int>(config.InvFreq(group).size());
    const std::vector<float> angles = RandomFloats(size_t{kEncodeRows} * live_, /*stream=*/2);
    for (const float angle : angles) {
      cos_.push_back(std::cos(angle));
      sin_.push_back(std::sin(angle));
    }
    cells_.resize(kEncodeRows);
    std::iota(cells_.begin(), cells_.end(), 0);
  }

  kvcache::BlockStore store_;
  double row_bytes_;
  const kernels::Ops* ops_;
  std::vector<engine::LayerDesc> descs_;
  // Of Encode.
  std::vector<float> qkv_, norm_, cos_, sin_;
  std::vector<int32_t> cells_;
  int live_ = 0;
  // Of Attend.
  std::vector<int32_t> table_;
  std::vector<kernels::AttentionSegment> segments_;
  std::vector<int32_t> visible_begin_, visible_end_;
  std::vector<float> q_, out_;
};

KvChoice Bf16() { return ParseKvChoice("bf16").value(); }

template <typename Run>
double SecondsOf(int passes, const Run& run) {
  const double begin = MonotonicSeconds();
  for (int i = 0; i < passes; ++i) run();
  return (MonotonicSeconds() - begin) / passes;
}

// Pairs of runs, each of so many passes that the shorter of the two takes a while; divided by the
// `tokens` of a pass.
template <typename RunA, typename RunB>
PairTimes MeasurePairs(const KvSpeedPlan& plan, const RunA& a, const RunB& b, int tokens) {
  a();
  b();
  const double shorter = std::min(SecondsOf(1, a), SecondsOf(1, b));
  const int passes = static_cast<int>(
      std::clamp(std::ceil(plan.least_run_s / std::max(shorter, 1e-9)), 1.0, double{kMostPasses}));
  PairTimes times;
  for (int i = 0; i < plan.pairs; ++i) {
    const double a_first = SecondsOf(passes, a);
    const double b_first = SecondsOf(passes, b);
    const double b_second = SecondsOf(passes, b);
    const double a_second = SecondsOf(passes, a);
    times.format.push_back((a_first + a_second) / 2 / tokens);
    times.bf16.push_back((b_first + b_second) / 2 / tokens);
  }
  return times;
}

// What the blocks of so many sequences take.
uint64_t StoreBytes(const kvcache::GroupLayout& layout, int64_t sequences, int visible) {
  return static_cast<uint64_t>(layout.block_bytes) * sequences *
         kvcache::BlocksFor(visible, layout.block_tokens);
}

}  // namespace

std::vector<double> PairTimes::Ratios() const {
  std::vector<double> ratios;
  for (size_t i = 0; i < format.size(); ++i) ratios.push_back(format[i] / bf16[i]);
  return ratios;
}

absl::StatusOr<std::vector<KvTest>> PlanKvTests(const engine::ModelConfig& config,
                                                std::span<const KvChoice> formats,
                                                std::span<const int> contexts, int sequences,
                                                int block_tokens, uint64_t cache_bytes,
                                                uint64_t most_bytes) {
  std::vector<KvTest> tests;
  for (const engine::KvGroup group : {kFull, kSliding}) {
    if (config.KvOwners(group).empty()) continue;
    std::vector<kvcache::GroupLayout> layouts;
    double least_row_bytes = 0.0;
    const auto add = [&](const KvChoice& choice) -> absl::Status {
      absl::StatusOr<std::vector<kvcache::LayerKv>> layers =
          engine::KvLayers(config, group, choice.formats);
      if (!layers.ok()) return layers.status();
      const double row_bytes = RowBytes(*layers);
      if (layouts.empty() || row_bytes < least_row_bytes) least_row_bytes = row_bytes;
      absl::StatusOr<kvcache::GroupLayout> layout =
          kvcache::MakeGroupLayout(block_tokens, *std::move(layers));
      if (!layout.ok()) return layout.status();
      layouts.push_back(*std::move(layout));
      return absl::OkStatus();
    };
    if (absl::Status s = add(Bf16()); !s.ok()) return s;
    for (const KvChoice& choice : formats) {
      if (absl::Status s = add(choice); !s.ok()) return s;
    }
    const kvcache::GroupLayout& bf16 = layouts[0];
    const kvcache::GroupLayout& largest = *std::max_element(
        layouts.begin() + 1, layouts.end(),
        [](const auto& a, const auto& b) { return a.block_bytes < b.block_bytes; });
    for (const int context : contexts) {
      const int visible = group == kFull ? context : std::min(context, config.sliding_window);
      const auto same = std::find_if(tests.begin(), tests.end(), [&](const KvTest& test) {
        return test.group == group && test.visible == visible;
      });
      if (same != tests.end()) {
        same->contexts.push_back(context);
        continue;
      }
      const uint64_t one = StoreBytes(bf16, 1, visible) + StoreBytes(largest, 1, visible);
      int64_t chosen = sequences;
      if (sequences == 0) {
        const double wanted = static_cast<double>(kCachesFull * cache_bytes);
        chosen = static_cast<int64_t>(std::ceil(wanted / (least_row_bytes * visible)));
        chosen = std::clamp<int64_t>(static_cast<int64_t>(most_bytes / one), 1,
                                     std::max<int64_t>(chosen, 1));
      }
      if (one * static_cast<uint64_t>(chosen) > most_bytes) {
        return absl::ResourceExhaustedError(absl::StrFormat(
            "%d sequences of %d positions take %s of KV in bf16 and the largest of the formats, "
            "but only %s may be used (half of what is free); lower --context or --sequences",
            chosen, visible, BytesText(static_cast<double>(one) * static_cast<double>(chosen)),
            BytesText(static_cast<double>(most_bytes))));
      }
      tests.push_back({.group = group,
                       .contexts = {context},
                       .visible = visible,
                       .sequences = static_cast<int>(chosen)});
    }
  }
  return tests;
}

absl::Status CheckKernels(const engine::ModelConfig& config, std::span<const KvChoice> formats,
                          const kernels::Ops& ops) {
  for (const KvChoice& choice : formats) {
    for (const engine::KvGroup group : {kSliding, kFull}) {
      const absl::StatusOr<std::vector<kvcache::LayerKv>> layers =
          engine::KvLayers(config, group, choice.formats);
      if (!layers.ok()) return layers.status();
      for (const kvcache::LayerKv& layer : *layers) {
        if (ops.supports({layer.head_dim, layer.k, layer.v})) continue;
        return absl::UnimplementedError(absl::StrFormat(
            "--formats %s: %s has no attention kernel for the %s layers with head size %d; leave "
            "it out",
            choice.name, ops.name, group == kFull ? "full" : "sliding", layer.head_dim));
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<KvSpeed> MeasureKv(
    const engine::ModelConfig& config, const kernels::Ops& ops, const KvSpeedPlan& plan,
    const std::function<void()>& begin,
    const std::function<void(const KvTest&, const KvFormatSpeed&, const PairTimes&)>& done) {
  const int block_tokens = plan.block_tokens;
  KvSpeed speed = {.tests = plan.tests, .bf16 = {.choice = Bf16()}};
  for (const KvChoice& choice : plan.formats) speed.formats.push_back({.choice = choice});

  for (const engine::KvGroup group : {kFull, kSliding}) {
    if (config.KvOwners(group).empty()) continue;
    absl::StatusOr<Bed> bf16 =
        Bed::Create(config, group, speed.bf16.choice, block_tokens, /*blocks=*/0, ops);
    if (!bf16.ok()) return bf16.status();
    speed.bf16.groups[group].bytes_per_token = bf16->bytes_per_token();
    speed.bf16.groups[group].row_bytes = bf16->row_bytes();
    for (KvFormatSpeed& format : speed.formats) {
      absl::StatusOr<Bed> bed =
          Bed::Create(config, group, format.choice, block_tokens, /*blocks=*/0, ops);
      if (!bed.ok()) return bed.status();
      KvGroupSpeed& measured = format.groups[group];
      measured.bytes_per_token = bed->bytes_per_token();
      measured.row_bytes = bed->row_bytes();
      measured.encode = MeasurePairs(
          plan, [&] { bed->Encode(); }, [&] { bf16->Encode(); }, kEncodeRows);
      measured.attention.resize(plan.tests.size());
    }
  }
  for (size_t t = 0; t < plan.tests.size(); ++t) {
    const KvTest& test = plan.tests[t];
    const int blocks = test.sequences * kvcache::BlocksFor(test.visible, block_tokens);
    begin();
    absl::StatusOr<Bed> bf16 =
        Bed::Create(config, test.group, speed.bf16.choice, block_tokens, blocks, ops);
    if (!bf16.ok()) return bf16.status();
    bf16->Fill(test.sequences, test.visible);
    for (KvFormatSpeed& format : speed.formats) {
      absl::StatusOr<Bed> bed =
          Bed::Create(config, test.group, format.choice, block_tokens, blocks, ops);
      if (!bed.ok()) return bed.status();
      bed->Fill(test.sequences, test.visible);
      PairTimes& times = format.groups[test.group].attention[t];
      times = MeasurePairs(
          plan, [&] { bed->Attend(); }, [&] { bf16->Attend(); }, test.sequences);
      done(test, format, times);
    }
  }
  return speed;
}

}  // namespace tandem::server
