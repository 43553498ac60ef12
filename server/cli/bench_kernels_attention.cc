// Attention, and what is done behind the projection that feeds it.

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "kvcache/block_store.h"
#include "kvcache/block_table.h"
#include "kvcache/kv_formats.h"
#include "server/cli/bench_kernels_cases.h"

namespace tandem::server {
namespace {

using kernels::KvFormat;

constexpr int kBlockTokens = 32;
constexpr int kFillRows = 256;  // of random K and V, which all blocks are copies of
constexpr std::array<KvFormat, 3> kFormats = {KvFormat::kBf16, KvFormat::kQ8, KvFormat::kTurbo4};

// What one layer needs of the host and the backend.
struct LayerBed {
  engine::LayerDesc desc;
  engine::KvGroup group = engine::kFull;
  KvShape shape;
  int live = 0;
  float eps = 0.0f;
  const float* norm = nullptr;  // [head_dim], of q and k
  const float* cos = nullptr;   // [max rows, live]
  const float* sin = nullptr;
  std::optional<kvcache::BlockStore> store;

  int64_t columns() const {
    const int kv = desc.num_kv_heads * (desc.has_v_proj ? 2 : 1);
    return int64_t{desc.num_q_heads + kv} * desc.head_dim;
  }
  const char* layers() const { return group == engine::kFull ? "full" : "sliding"; }
};

// Rows that are stored in `cells` from 0 on, and see `visible` positions.
struct KvRows {
  PlainRows plain;
  std::vector<int32_t> cells, begin, end, table;
  std::vector<kernels::AttentionSegment> segments;

  explicit KvRows(int count)
      : plain(count, /*ids_below=*/1), cells(count), begin(count, 0), end(count, 0) {
    std::iota(cells.begin(), cells.end(), 0);
  }

  kernels::RowsArgs Args(const LayerBed& bed, bool prompt) const {
    kernels::RowsArgs args = plain.Args(prompt);
    args.groups[bed.group] = {.cells = cells,
                              .visible_begin = begin,
                              .visible_end = end,
                              .segments = segments,
                              .block_tokens = kBlockTokens,
                              .num_q_heads = bed.desc.num_q_heads,
                              .num_kv_heads = bed.desc.num_kv_heads};
    return args;
  }
};

// The first layer of the group that stores KV, with room for `blocks`. Nothing when the model has
// no such layer or the backend no kernel for it.
absl::StatusOr<std::optional<LayerBed>> MakeBed(const engine::ModelConfig& config,
                                                engine::KvGroup group, KvFormat format, int rows,
                                                int64_t blocks, KernelBench& bench) {
  const std::vector<int> owners = config.KvOwners(group);
  if (owners.empty()) return std::nullopt;
  LayerBed bed;
  bed.desc = config.layers[owners[0]];
  bed.group = group;
  bed.shape = {.k = format,
               .v = format,
               .num_q_heads = bed.desc.num_q_heads,
               .num_kv_heads = bed.desc.num_kv_heads,
               .head_dim = bed.desc.head_dim};
  bed.live = static_cast<int>(config.InvFreq(group).size());
  bed.eps = config.rms_eps;
  if (!bench.ops().supports({bed.desc.head_dim, format, format})) {
    bench.LeaveOut(absl::StrFormat("%s layers, %s", bed.layers(), kvcache::KvFormatName(format)),
                   absl::StrFormat("%s has no kernel for head size %d in this format",
                                   bench.ops().name, bed.desc.head_dim));
    return std::nullopt;
  }
  absl::StatusOr<kvcache::GroupLayout> layout = kvcache::MakeGroupLayout(
      kBlockTokens, {{bed.desc.num_kv_heads, bed.desc.head_dim, format, format}});
  if (!layout.ok()) return layout.status();
  bed.norm = bench.TakeFloats(bed.desc.head_dim);
  bed.cos = bench.TakeFloats(int64_t{rows} * bed.live);
  bed.sin = bench.TakeFloats(int64_t{rows} * bed.live);
  if (bench.Allow(layout->block_bytes * blocks)) {
    absl::StatusOr<kvcache::BlockStore> store = kvcache::BlockStore::Create(
        *std::move(layout), static_cast<int32_t>(blocks), bench.ops().memory);
    if (!store.ok()) return store.status();
    bed.store.emplace(*std::move(store));
  }
  return bed;
}

// `qkv` [rows, bed.columns()]; stored at the rows' cells, or nowhere.
void QkvPost(const LayerBed& bed, const kernels::StagedRows& staged, float* qkv, bool stores,
             const kernels::Ops& ops) {
  kernels::QkvPostArgs args;
  args.qkv = qkv;
  args.stride = bed.columns();
  args.rows = staged.rows;
  args.num_q_heads = bed.desc.num_q_heads;
  args.num_kv_heads = stores ? bed.desc.num_kv_heads : 0;
  args.head_dim = bed.desc.head_dim;
  args.has_v = bed.desc.has_v_proj;
  args.q_norm = bed.norm;
  args.k_norm = bed.norm;
  args.cos = bed.cos;
  args.sin = bed.sin;
  args.live = bed.live;
  args.eps = bed.eps;
  args.kv = bed.store->View(0);
  args.cells = staged.cells[bed.group];
  ops.qkv_post(ops.backend, args);
}

// Rows into every block of the store.
void Fill(const LayerBed& bed, KernelBench& bench) {
  const kernels::Ops& ops = bench.ops();
  float* const qkv = bench.TakeFloats(kFillRows * bed.columns());
  if (bench.failed()) return;
  const KvRows rows(kFillRows);
  QkvPost(bed, ops.stage(ops.backend, rows.Args(bed, /*prompt=*/false)), qkv, true, ops);
  const kvcache::BlockStore& store = *bed.store;
  const int first = kFillRows / kBlockTokens;
  for (int block = first; block < store.num_blocks(); ++block) {
    ops.copy(ops.backend, store.block(block), store.block(block % first),
             store.layout().block_bytes);
  }
}

absl::Status RunAttention(const engine::ModelConfig& config, engine::KvGroup group, KvFormat format,
                          const KernelRows& wanted, KernelBench& bench) {
  const kernels::Ops& ops = bench.ops();
  const int visible =
      group == engine::kFull ? wanted.context : std::min(wanted.context, config.sliding_window);
  const int sequences = wanted.sequences;
  const int blocks_each = kvcache::BlocksFor(visible, kBlockTokens);
  const std::vector<int> owners = config.KvOwners(group);
  if (owners.empty()) return absl::OkStatus();
  const engine::LayerDesc& desc = config.layers[owners[0]];
  const KvShape shape = {format, format, desc.num_q_heads, desc.num_kv_heads, desc.head_dim};
  const uint64_t bytes = AttentionBytes(shape, sequences, visible, ops.operand_bytes);
  // Each call has blocks of its own, that lie as far behind the tables' as it has calls before it.
  const int calls = bench.Copies(bytes);
  const int64_t blocks_of_call = int64_t{sequences} * blocks_each;
  absl::StatusOr<std::optional<LayerBed>> made =
      MakeBed(config, group, format, kFillRows,
              std::max<int64_t>(calls * blocks_of_call, kFillRows / kBlockTokens), bench);
  if (!made.ok()) return made.status();
  if (!made->has_value()) return absl::OkStatus();
  const LayerBed& bed = **made;
  if (!bench.failed()) Fill(bed, bench);

  KvRows rows(sequences);
  rows.table.resize(blocks_of_call);
  std::iota(rows.table.begin(), rows.table.end(), 0);
  std::fill(rows.cells.begin(), rows.cells.end(), -1);
  std::fill(rows.end.begin(), rows.end.end(), visible);
  std::fill(rows.plain.positions.begin(), rows.plain.positions.end(), visible - 1);
  for (int s = 0; s < sequences; ++s) {
    rows.segments.push_back({s, 1, rows.table.data() + int64_t{s} * blocks_each});
  }
  float* const q = bench.TakeFloats(sequences * bed.columns());
  std::byte* const out = bench.Take<std::byte>(int64_t{sequences} * desc.num_q_heads *
                                               desc.head_dim * ops.operand_bytes);
  const kernels::StagedRows staged = ops.stage(ops.backend, rows.Args(bed, /*prompt=*/false));
  kernels::KvView view;
  if (!bench.failed()) {
    QkvPost(bed, staged, q, /*stores=*/false, ops);
    view = bed.store->View(0);
  }
  const KernelCase test = {
      .name = absl::StrFormat("%s, %s, %d visible", kvcache::KvFormatName(format), bed.layers(),
                              visible),
      .rows = sequences,
      .bytes = bytes,
      .calls = calls};
  absl::Status status = bench.Run(test, [&](int call) {
    kernels::AttentionArgs args;
    args.q = q;
    args.q_stride = bed.columns();
    args.out = out;
    args.segments = rows.segments;
    args.visible_begin = staged.visible_begin[group];
    args.visible_end = staged.visible_end[group];
    args.group = group;
    args.num_q_heads = desc.num_q_heads;
    args.num_kv_heads = desc.num_kv_heads;
    args.head_dim = desc.head_dim;
    args.kv = view;
    args.kv.base += call * blocks_of_call * static_cast<int64_t>(view.block_stride);
    ops.attention(ops.backend, args);
  });
  bench.Reset();
  return status;
}

absl::Status RunQkvPost(const engine::ModelConfig& config, KvFormat format, int count, bool prompt,
                        KernelBench& bench) {
  const kernels::Ops& ops = bench.ops();
  const engine::KvGroup group =
      config.KvOwners(engine::kFull).empty() ? engine::kSliding : engine::kFull;
  absl::StatusOr<std::optional<LayerBed>> made =
      MakeBed(config, group, format, count, kvcache::BlocksFor(count, kBlockTokens), bench);
  if (!made.ok()) return made.status();
  if (!made->has_value()) return absl::OkStatus();
  const LayerBed& bed = **made;
  const uint64_t bytes =
      QkvPostBytes(bed.shape, bed.desc.has_v_proj, bed.live, count, ops.operand_bytes);
  const int calls = bench.Copies(bytes);
  const int64_t values = count * bed.columns();
  float* const qkv = bench.TakeFloats(calls * values);
  const KvRows rows(count);
  const kernels::StagedRows staged = ops.stage(ops.backend, rows.Args(bed, prompt));
  const KernelCase test = {
      .name = absl::StrFormat("%s, %s", kvcache::KvFormatName(format), bed.layers()),
      .rows = count,
      .prompt = prompt,
      .bytes = bytes,
      .calls = calls};
  absl::Status status =
      bench.Run(test, [&](int call) { QkvPost(bed, staged, qkv + call * values, true, ops); });
  bench.Reset();
  return status;
}

}  // namespace

absl::Status RunAttentionCases(const engine::ModelConfig& config, const KernelRows& rows,
                               KernelBench& bench) {
  absl::Status status;
  for (const engine::KvGroup group : {engine::kFull, engine::kSliding}) {
    for (const KvFormat format : kFormats) {
      status = RunAttention(config, group, format, rows, bench);
      if (!status.ok()) return status;
    }
  }
  return status;
}

absl::Status RunQkvPostCases(const engine::ModelConfig& config, const KernelRows& rows,
                             KernelBench& bench) {
  absl::Status status;
  for (const KvFormat format : kFormats) {
    for (const int count : rows.generated) {
      status = RunQkvPost(config, format, count, /*prompt=*/false, bench);
      if (!status.ok()) return status;
    }
    status = RunQkvPost(config, format, rows.prompt, /*prompt=*/true, bench);
    if (!status.ok()) return status;
  }
  return status;
}

}  // namespace tandem::server
