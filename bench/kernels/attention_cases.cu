// Paged attention of generated rows and of prompt rows over a cache of random values.
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/kernels/kernel_bench.h"
#include "kernels/cuda/attention.h"

namespace tandem::kernels::K_WORLD {
namespace {

constexpr int kLog2BlockTokens = 5;

struct AttentionCase {
  std::string model;
  int head_dim = 0;
  int q_heads = 0;
  int kv_heads = 0;
  int window = 0;  // 0: all positions
  int context = 0;
  int sequences = 0;
  int rows = 1;  // of each sequence, its last ones
  KvFormat format = KvFormat::kBf16;
  double gate_us = 0.0;
};

std::string Describe(const char* kind, const AttentionCase& a) {
  const char* const formats[kNumKvFormats] = {"f32",    "bf16",   "f16",   "q8",
                                              "turbo4", "turbo3", "turbo2"};
  return absl::StrCat(kind, " ", a.model, a.window != 0 ? " sliding " : " full ",
                      formats[static_cast<int>(a.format)], ", ", a.sequences, " x ", a.rows,
                      " rows at ", a.context);
}

// What a step with these rows puts on the device.
struct Step {
  KvView kv;
  const uint16_t* q = nullptr;
  const int32_t* block_tables = nullptr;
  int64_t table_stride = 0;
  const VisibleInterval* visible = nullptr;
  bf16* out = nullptr;
  int rows = 0;
  uint64_t bytes = 0;  // K and V that are seen, q and the result
  double flops = 0.0;  // of both products
  std::vector<int32_t> cu_rows;
  std::vector<VisibleInterval> host_visible;
};

Step TakeStep(Bench& bench, const AttentionCase& a) {
  Step step;
  const int tokens = 1 << kLog2BlockTokens;
  const size_t row_bytes = KvRowBytes(a.format, a.head_dim);
  const size_t scale_bytes = KvHasScale(a.format) ? 2 : 0;
  step.kv = {.v_offset = tokens * row_bytes,
             .k_scale_offset = 2 * tokens * row_bytes,
             .v_scale_offset = tokens * (2 * row_bytes + scale_bytes),
             .log2_block_tokens = kLog2BlockTokens,
             .k_format = a.format,
             .v_format = a.format};
  step.kv.head_stride = (2 * tokens * (row_bytes + scale_bytes) + 127) / 128 * 128;
  step.kv.block_stride = step.kv.head_stride * a.kv_heads;
  step.rows = a.sequences * a.rows;
  step.table_stride = (a.context + tokens - 1) / tokens;
  step.cu_rows = {0};
  const int first_seen = a.window == 0 ? 0 : std::max(0, a.context - a.rows + 1 - a.window);
  int64_t seen_tokens = 0;
  for (int s = 0; s < a.sequences; ++s) {
    for (int i = 0; i < a.rows; ++i) {
      const int end = a.context - a.rows + 1 + i;
      const int begin = a.window == 0 ? 0 : std::max(0, end - a.window);
      step.host_visible.push_back({begin, end});
      step.flops += 4.0 * (end - begin) * a.q_heads * a.head_dim;
    }
    step.cu_rows.push_back(static_cast<int32_t>(step.host_visible.size()));
    seen_tokens += a.context - first_seen;
  }
  // Blocks of a sequence lie anywhere; those out of sight were released.
  const int first_block = first_seen / tokens;
  std::vector<int32_t> blocks(a.sequences * (step.table_stride - first_block));
  std::iota(blocks.begin(), blocks.end(), 0);
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(1));
  std::vector<int32_t> tables(a.sequences * step.table_stride, -1);
  size_t next = 0;
  for (int s = 0; s < a.sequences; ++s) {
    for (int64_t b = first_block; b < step.table_stride; ++b) {
      tables[s * step.table_stride + b] = blocks[next++];
    }
  }
  const int64_t values = int64_t{step.rows} * a.q_heads * a.head_dim;
  step.kv.base = bench.Take<std::byte>(static_cast<int64_t>(blocks.size() * step.kv.block_stride),
                                       Content::kValues);
  step.q = bench.Take<uint16_t>(values, Content::kValues);
  step.out = bench.Take<bf16>(values, Content::kNothing);
  step.block_tables = bench.Upload(tables);
  step.visible = bench.Upload(step.host_visible);
  step.bytes = static_cast<uint64_t>(seen_tokens) * a.kv_heads * 2 * (row_bytes + scale_bytes) +
               static_cast<uint64_t>(4 * values);
  return step;
}

AttentionWork Upload(Bench& bench, const AttentionPlan& plan, const Step& step) {
  return {.wave = bench.Upload(plan.waves),
          .items = bench.Upload(plan.items),
          .parts = bench.Upload(plan.parts),
          .part_of_row = bench.Upload(plan.part_of_row),
          .visible = step.visible,
          .grain = plan.grain};
}

absl::Status RunSplit(Bench& bench, const AttentionCase& a) {
  const Step step = TakeStep(bench, a);
  AttentionPlanArgs args = {.cu_rows = step.cu_rows,
                            .visible = step.host_visible,
                            .group = a.q_heads / a.kv_heads,
                            .num_kv_heads = a.kv_heads,
                            .chunk_tokens = AttentionChunkTokens(a.window != 0, a.kv_heads),
                            .max_slots = int64_t{1} << 40};
  const int blocks = 4 * bench.device().multiprocessors;
  args.grain = ChooseAttentionGrain(args, blocks);
  if (!AllowAttention({a.head_dim, a.format, a.format}, args.grain)) args.grain = {};
  AttentionPlan plan;
  PlanAttention(args, &plan);
  const AttentionWave& wave = plan.waves.front();  // of one, with so many slots
  const int64_t slots = int64_t{wave.item_end - wave.item_begin} * a.kv_heads;
  AttentionWork work = Upload(bench, plan, step);
  work.chunk_tokens = args.chunk_tokens;
  work.max_slots = slots;
  work.partials = reinterpret_cast<float*>(bench.Take<std::byte>(
      static_cast<int64_t>(AttentionWorkspaceBytes(slots, args.grain.m_tiles, a.head_dim)),
      Content::kNothing));
  BenchCase c;
  c.name = Describe("attention", a);
  c.bytes = step.bytes;
  c.gate_us = a.gate_us;
  c.give = [=](int, DeviceStream& stream) {
    AttentionSplit({.work = work,
                    .q = step.q,
                    .q_stride = int64_t{a.q_heads} * a.head_dim,
                    .q_head_stride = a.head_dim,
                    .block_tables = step.block_tables,
                    .table_stride = step.table_stride,
                    .num_q_heads = a.q_heads,
                    .num_kv_heads = a.kv_heads,
                    .head_dim = a.head_dim,
                    .kv = step.kv,
                    .blocks = blocks},
                   stream.get());
    AttentionMerge({.work = work,
                    .out = step.out,
                    .rows = step.rows,
                    .num_q_heads = a.q_heads,
                    .num_kv_heads = a.kv_heads,
                    .head_dim = a.head_dim,
                    .v_format = a.format},
                   stream.get());
  };
  return bench.Run(c);
}

absl::Status RunDirect(Bench& bench, const AttentionCase& a) {
  const Step step = TakeStep(bench, a);
  AttentionPlan plan;
  PlanDirectAttention(step.cu_rows, step.host_visible, a.q_heads / a.kv_heads, &plan);
  const AttentionWork work = Upload(bench, plan, step);
  const int blocks = 4 * bench.device().multiprocessors;
  BenchCase c;
  c.name = Describe("prompt attention", a);
  c.bytes = step.bytes;
  c.flops = step.flops;
  c.give = [=](int, DeviceStream& stream) {
    AttentionDirect({.work = work,
                     .q = step.q,
                     .q_stride = int64_t{a.q_heads} * a.head_dim,
                     .q_head_stride = a.head_dim,
                     .block_tables = step.block_tables,
                     .table_stride = step.table_stride,
                     .num_q_heads = a.q_heads,
                     .num_kv_heads = a.kv_heads,
                     .head_dim = a.head_dim,
                     .kv = step.kv,
                     .out = step.out,
                     .blocks = blocks},
                    stream.get());
  };
  return bench.Run(c);
}

}  // namespace

absl::Status RunAttentionCases(Bench& bench) {
  absl::Status status;
  AttentionCase full = {.model = "31B",
                        .head_dim = 512,
                        .q_heads = bench.Size(32, 4),
                        .kv_heads = bench.Size(4, 2),
                        .context = bench.Size(32768, 70),
                        .sequences = bench.Size(8, 2)};
  for (const KvFormat format : {KvFormat::kBf16, KvFormat::kQ8, KvFormat::kTurbo4}) {
    full.format = format;
    full.gate_us = format == KvFormat::kBf16 ? 900.0 : format == KvFormat::kTurbo4 ? 350.0 : 0.0;
    full.rows = 1;
    status.Update(RunSplit(bench, full));
    full.rows = 5;  // verified with four guesses
    full.gate_us = 0.0;
    status.Update(RunSplit(bench, full));
  }
  AttentionCase sliding = full;
  sliding.head_dim = 256;
  sliding.kv_heads = bench.Size(16, 2);
  sliding.window = bench.Size(1024, 40);
  for (const KvFormat format : {KvFormat::kBf16, KvFormat::kQ8}) {
    sliding.format = format;
    sliding.rows = 1;
    sliding.sequences = bench.Size(64, 2);
    status.Update(RunSplit(bench, sliding));
    for (AttentionCase prompt : {full, sliding}) {
      prompt.format = format;
      prompt.sequences = 1;
      prompt.rows = bench.Size(2048, 9);
      prompt.context = bench.Size(4096, 40);
      status.Update(RunDirect(bench, prompt));
    }
  }
  return status;
}

}  // namespace tandem::kernels::K_WORLD
