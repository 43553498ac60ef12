// The table of operations that a backend provides: views in, views out.
//
// One step of the model is a list of these calls on one thread; a backend spreads each over its own
// threads. Every operation has a plain-loop twin in kernels/reference that defines "correct".
//
// Promise   A row's result bits depend on that row's inputs and the layer's shape alone: not on the
//           number of rows, their order, or the number of threads. Reductions run in an order fixed
//           by the shape; nothing is accumulated atomically.
// Memory    Arrays lie in memory of the backend (Ops::memory), spans of the host's rows become such
//           arrays by `stage`. On a device nobody but the operations may look inside; an operation
//           is done when something behind it has been fetched.
// Operands  are values that only a product reads: `void*` below. The CPU keeps them as f32 and
//           rounds them where it multiplies; a device keeps them as bf16, so both round once.
//           Ops::operand_bytes is their size.
// Shapes    are checked when a model is loaded (`supports`); the calls themselves can not fail.
// What
//           a device reports of a call is told by `status`. Arrays are row-major; a stride counts
//           values from one row to the next. rows may be 0.
// Threads   one caller at a time.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "kernels/memory.h"
#include "kernels/types.h"
#include "kernels/weight_codes.h"

namespace tandem::kernels {

// Operands of the CPU and of kernels/reference.
inline float* AsF32(void* operands) { return static_cast<float*>(operands); }
inline const float* AsF32(const void* operands) { return static_cast<const float*>(operands); }

// out[t, :] = table[ids[t], :] * scale
struct EmbedArgs {
  WeightView table;              // [vocab, dim]
  std::span<const int32_t> ids;  // [rows], each in [0, vocab)
  float scale = 1.0f;
  void* out = nullptr;        // [rows, out_stride], dim values written: f32, or
  int64_t out_stride = 0;     // 0: dim
  bool out_operands = false;  // operands
};

// Per-layer inputs (gemma4.md 2.3), in place on the context projection:
//   ctx[t,l,:] = (RmsNorm(ctx[t,l,:] * ctx_scale; norm)
//                 + table[ids[t], l, :] * table_scale) * out_scale
struct PleArgs {
  std::span<const int32_t> ids;  // [rows]; ids outside [0, table_rows) read row 0
  const Bf16* table = nullptr;   // [table_rows, layers * width] row-major; any alignment
  int64_t table_rows = 0;
  const float* norm = nullptr;  // [width]
  float* ctx = nullptr;         // [rows, layers * width], in and out
  int layers = 0;
  int width = 0;
  float ctx_scale = 1.0f;
  float table_scale = 1.0f;
  float out_scale = 1.0f;
  float eps = 0.0f;
};

// y[t, :] = x[t, :] * (mean(x[t, :]^2) + eps)^(-1/2) * weight        (gemma4.md 2.1)
struct RmsNormArgs {
  const float* x = nullptr;       // [rows, dim]
  const float* weight = nullptr;  // [dim], or null for a weight of 1
  void* y = nullptr;              // [rows, dim] operands, or f32, which may be x
  int rows = 0;
  int dim = 0;
  float eps = 0.0f;
  bool y_f32 = false;
};

// h[t, :] = (h[t, :] + RmsNorm(a[t, :]; weight)) * scale[0]
struct NormAddArgs {
  const float* a = nullptr;       // [rows, dim]
  const float* weight = nullptr;  // [dim]
  float* h = nullptr;             // [rows, dim], in and out
  int rows = 0;
  int dim = 0;
  float eps = 0.0f;
  const float* scale = nullptr;  // null: 1
};

// y[t, n] = sum_k w[n, k] * x[t, k], k ascending. A backend may round x further where it meets
// weights of codes (cpu/linear_codes.h), each row by itself.
struct LinearArgs {
  const void* x = nullptr;  // [rows, x_stride] operands, w.in values used
  int64_t x_stride = 0;
  WeightView w;
  void* y = nullptr;  // [rows, y_stride], w.out values written: f32 or operands
  int64_t y_stride = 0;
  int rows = 0;
  bool f32_operands = false;  // true: x is f32 and is never rounded; w is bf16
  bool y_operands = false;
  bool prompt = false;  // of the class of rows that RowsArgs tells
};

// y[t, j * first.out + i] = sum_k W_c[i, k] * x[t, k] with c = ids[t, j], k ascending: each row
// meets the few clusters that it chose of a large matrix. One value's bits are those of `linear`
// with W_c.
struct LinearClustersArgs {
  const void* x = nullptr;  // [rows, x_stride] operands, first.in values used
  int64_t x_stride = 0;
  WeightView first;              // cluster 0, bf16; cluster c is at data + c * cluster_elements
  size_t cluster_elements = 0;   // at least PackedElements(first.out, first.in)
  const int32_t* ids = nullptr;  // [rows, chosen] clusters
  int chosen = 0;
  float* y = nullptr;  // [rows, y_stride], chosen * first.out values written
  int64_t y_stride = 0;
  int rows = 0;
};

// y[t, i] = gelu_tanh(gate_i . x[t]) * (up_i . x[t])
// w holds gate and up rows interleaved by tiles: 16 gate rows, 16 up rows, 16 gate rows, ...
// so w.out = 2 * 16 * ceil(width/16); rows past `width` are zero.
struct LinearGegluArgs {
  const void* x = nullptr;  // [rows, x_stride] operands
  int64_t x_stride = 0;
  WeightView w;       // [2 * 16 * ceil(width/16), in]
  void* y = nullptr;  // [rows, y_stride] operands, `width` values written
  int64_t y_stride = 0;
  int rows = 0;
  int width = 0;
  bool prompt = false;  // as in LinearArgs
};

// y[t, i] = gelu_tanh(a[t, i]) * b[t, i]
struct GeluMulArgs {
  const float* a = nullptr;
  int64_t a_stride = 0;
  const float* b = nullptr;
  int64_t b_stride = 0;
  void* y = nullptr;  // operands; on the CPU it may be a
  int64_t y_stride = 0;
  int rows = 0;
  int dim = 0;
};

// cos, sin of positions[t] * inv_freq[j], the angle an f32 product (gemma4.md 2.4).
struct RopeTableArgs {
  std::span<const int32_t> positions;  // [rows]
  std::span<const float> inv_freq;     // [live], the non-zero frequencies; of the backend
  float* cos = nullptr;                // [rows, live]
  float* sin = nullptr;                // [rows, live]
};

// K and V rows that were not stored as they came, since the start; [0] of K, [1] of V.
struct KvEncodeCounts {
  std::array<std::atomic<uint64_t>, 2> nonfinite = {};  // a NaN, an infinity or a norm above 1e17
  std::array<std::atomic<uint64_t>, 2> clamped = {};    // scale above the largest F16
  std::array<std::atomic<uint64_t>, 2> zero = {};       // norm so small that the row is zero
};

// Behind the fused q/k/v projection (gemma4.md 2.5). q heads: RmsNorm with q_norm, then rope, in
// place, and left there as `attention` of this backend and K format takes them. k heads: RmsNorm
// with k_norm, then rope, stored. v heads: RmsNorm without weight, stored; without v columns, v is
// made from the k columns as projected. Dimension j is paired with j + head_dim/2; only pairs j <
// live are rotated.
struct QkvPostArgs {
  float* qkv = nullptr;  // [rows, stride]: q heads, k heads, v heads, head-major
  int64_t stride = 0;
  int rows = 0;
  int num_q_heads = 0;
  int num_kv_heads = 0;  // 0: a layer that shares KV; nothing is stored
  int head_dim = 0;
  bool has_v = true;
  const float* q_norm = nullptr;  // [head_dim]
  const float* k_norm = nullptr;  // [head_dim]
  const float* cos = nullptr;     // [rows, live]
  const float* sin = nullptr;     // [rows, live]
  int live = 0;
  float eps = 0.0f;
  KvView kv;
  const int32_t* cells = nullptr;  // [rows] block * block_tokens + cell where the row is stored;
                                   // -1: nowhere, of rows that a device is padded with
  // Of formats with a scale, which store a row that is not finite as zeros. Null: not asked.
  uint8_t* nonfinite = nullptr;  // [rows] set to 1 where that happened, else left alone
  KvEncodeCounts* counts = nullptr;
};

// A run of rows of one sequence.
struct AttentionSegment {
  int row_begin = 0;
  int num_rows = 0;
  const int32_t* block_table = nullptr;  // block id of position p at [p / block_tokens]
};

// out[t, n, :] = sum_p softmax_p(q[t, n] . K[p, n/g]) V[p, n/g] over visible positions p in
// [visible_begin[t], visible_end[t]), g = num_q_heads/num_kv_heads; scale 1; an empty interval
// gives 0. Rows of one segment are ascending in visible_end. Blocks wholly outside every row's
// interval are never read; a table entry there may be -1. Bytes outside the interval may be
// anything, NaN included.
// q and out are in the model's own space: what rotation a format needs is done inside. A K format
// with codes is met by q rounded to 8 bits per value, one scale per row and head (turboquant 3.2,
// int8 path); the same rounding at every level. A V format with codes may be met by softmax weights
// rounded to 16 bits of the row's largest among 128 positions.
struct AttentionArgs {
  const float* q = nullptr;  // [rows, q_stride] of qkv_post
  int64_t q_stride = 0;
  void* out = nullptr;  // [rows, num_q_heads * head_dim] operands
  std::span<const AttentionSegment> segments;
  const int32_t* visible_begin = nullptr;  // [rows]
  const int32_t* visible_end = nullptr;    // [rows]
  int group = 0;  // of the staged rows: a device reads segments and intervals there
  int num_q_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  KvView kv;
};

// Per row: softmax over the logits in f32, the top_k largest (ties to the lower expert), weights
// renormalised over the chosen and multiplied by expert_scale (gemma4.md 2.7).
struct RouteArgs {
  const float* logits = nullptr;  // [rows, experts]
  int rows = 0;
  int experts = 0;
  int top_k = 0;
  const float* expert_scale = nullptr;  // [experts]
  int32_t* ids = nullptr;               // [rows, top_k], ascending expert id
  float* weights = nullptr;             // [rows, top_k]
};

// out[t, :] = sum over the row's experts, ascending id, of weights * down_e(geglu_e(x[t]))
struct ExpertsArgs {
  const void* x = nullptr;  // [rows, dim] operands
  int rows = 0;
  int dim = 0;
  int width = 0;  // M, width of one expert
  int top_k = 0;
  std::span<const WeightView> gate_up;  // [experts] each interleaved as in LinearGegluArgs
  std::span<const WeightView> down;     // [experts] each [dim, width]
  const int32_t* ids = nullptr;         // [rows, top_k], ascending expert id
  const float* weights = nullptr;       // [rows, top_k]
  float* out = nullptr;                 // [rows, dim]
};

// x = cap * tanh(x / cap), in place.
struct SoftcapArgs {
  float* x = nullptr;  // [count]
  int64_t count = 0;
  float cap = 0.0f;
};

// to[i, :] = from[index[i], :], or to[index[i], :] = from[i, :] when scattered. `from` and `to` do
// not overlap, or they are the same, nothing is scattered, and index ascends.
struct GatherArgs {
  const void* from = nullptr;
  size_t from_bytes = 0;  // from one row to the next, as the next
  void* to = nullptr;
  size_t to_bytes = 0;
  size_t row_bytes = 0;            // copied; multiples of 4
  std::span<const int32_t> index;  // of the host
  bool scatter = false;
};

// Two groups of layers with KV: sliding and full.
constexpr int kNumStagedGroups = 2;

// The rows of a forward, as arrays of the host. They are not touched until `stage` is called again
// or the caller has fetched something.
struct RowsArgs {
  std::span<const int32_t> ids;        // [rows]
  std::span<const int32_t> positions;  // [rows]
  // Rows of given tokens, which may run in other kernels than generated ones: their bits do not
  // depend on how a prompt is cut, but on this (kernels.md 3.1).
  bool prompt = false;
  struct Group {
    std::span<const int32_t> cells;          // [rows], or empty where no layer stores
    std::span<const int32_t> visible_begin;  // [rows], or empty: the model has no such layer
    std::span<const int32_t> visible_end;    // [rows]
    std::span<const AttentionSegment> segments;
    int block_tokens = 0;
    int num_q_heads = 0;
    int num_kv_heads = 0;
  };
  std::array<Group, kNumStagedGroups> groups;
  // Per-layer embeddings, of models that have them (PleArgs).
  const Bf16* ple_table = nullptr;
  int64_t ple_table_rows = 0;
  int64_t ple_row_values = 0;
  int max_rows = 0;  // that the caller's buffers have room for: a device may work on more than
                     // there are; 0: as many as there are
  // What storing these rows finds goes here (QkvPostArgs), at the latest when `collect` returns.
  uint8_t* nonfinite = nullptr;  // [rows]
  std::array<KvEncodeCounts*, kNumStagedGroups> counts = {};
};

// The same for the operations. A device may run on more rows than there are, which see nothing and
// are stored nowhere: buffers have room for the most rows of a step.
struct StagedRows {
  int rows = 0;
  const int32_t* ids = nullptr;        // [rows]
  const int32_t* positions = nullptr;  // [rows]
  std::array<const int32_t*, kNumStagedGroups> cells = {};
  std::array<const int32_t*, kNumStagedGroups> visible_begin = {};
  std::array<const int32_t*, kNumStagedGroups> visible_end = {};
  uint8_t* nonfinite = nullptr;
};

// A draw that needs a row of logits alone: engine::SampleRequest without masks, edits and reports.
struct PickRequest {
  int row = 0;               // of the logits; several requests may name the same one
  float temperature = 1.0f;  // this and the next as in engine::SamplingParams
  int top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  uint64_t seed = 0;
  int choice = 0;
  int64_t position = 0;
};

// ids[i] = what engine::Sample draws for requests[i]; -1 where it finds the row not finite.
struct PickArgs {
  const float* logits = nullptr;  // [rows, vocab] after the soft-cap
  int vocab = 0;
  const uint32_t* suppressed = nullptr;   // [ceil(vocab / 32)] bits of ids that are never drawn
  std::span<const PickRequest> requests;  // of the host
  int32_t* ids = nullptr;                 // [requests], of the host
};

// What a loaded model asks a backend for before the first step.
struct AttentionShape {
  int head_dim = 0;
  KvFormat k_format = KvFormat::kBf16;
  KvFormat v_format = KvFormat::kBf16;
};

// A number that no other program has (Ops::begin_run).
inline uint64_t NewProgram() {
  static std::atomic<uint64_t> last = 0;
  return ++last;
}

// Filled once by a backend; `backend` is the first argument of every call.
struct Ops {
  void* backend = nullptr;
  std::string name;  // for logs and reports: "cpu avx512bf16, 2 threads"
  MemorySource memory = HostMemory();
  bool host_memory = true;         // the host may read and write it
  size_t operand_bytes = 4;        // of one operand
  bool prompt_rows_apart = false;  // rows of prompts and generated ones are staged apart

  bool (*supports)(const AttentionShape&) = nullptr;

  // Weights, when a model is loaded. Row-major bf16 of the host, at any alignment, into rows
  // [row_begin, row_begin + out) of a matrix of `in` inputs, as this backend keeps it in
  // PackedElements(out, in); and gate and up interleaved as LinearGegluArgs has them.
  void (*pack_rows)(void* backend, const std::byte* rows, int out, int in, int row_begin,
                    Bf16* packed) = nullptr;
  void (*pack_gate_up)(void* backend, const std::byte* gate, const std::byte* up, int width, int in,
                       Bf16* packed) = nullptr;
  // The same into a matrix of codes, quantised on the way (weight_codes.h). False: a value that the
  // format can not hold; the matrix is then undefined.
  bool (*pack_code_rows)(void* backend, const std::byte* rows, int out, int in, int row_begin,
                         const CodeTarget& packed) = nullptr;
  bool (*pack_code_gate_up)(void* backend, const std::byte* gate, const std::byte* up, int width,
                            int in, const CodeTarget& packed) = nullptr;

  // Between host and backend. A fetched array may be written to, which changes the backend's or
  // not, and stays valid until the next call of `fetch` or `stage`.
  void (*write)(void* backend, void* to, const void* host, size_t bytes) = nullptr;
  void* (*fetch)(void* backend, void* from, size_t bytes) = nullptr;
  void (*copy)(void* backend, void* to, const void* from, size_t bytes) = nullptr;
  void (*gather)(void* backend, const GatherArgs&) = nullptr;
  // `count` values of x as operands: x itself where these are f32, or rounded into `space`.
  const void* (*as_operands)(void* backend, const float* x, void* space, int64_t count) = nullptr;

  // The rows that all operations until the next call of it work on.
  StagedRows (*stage)(void* backend, const RowsArgs&) = nullptr;
  // Around operations that are called again and again, with equal arguments for equal `program` and
  // staged rows of equal shape (StagedRows::rows and more). `begin_run` false: they have been run
  // by what a device recorded of them; true: call them, then `end_run`. Nothing in between stages,
  // writes, fetches, copies or gathers.
  bool (*begin_run)(void* backend, uint64_t program) = nullptr;
  void (*end_run)(void* backend) = nullptr;

  // Behind the last operation of a step: RowsArgs::nonfinite and counts hold what was found.
  void (*collect)(void* backend) = nullptr;
  // Not OK: the device is lost, with what it said; it stays so.
  absl::Status (*status)(void* backend) = nullptr;

  void (*embed)(void* backend, const EmbedArgs&) = nullptr;
  void (*ple)(void* backend, const PleArgs&) = nullptr;
  void (*rms_norm)(void* backend, const RmsNormArgs&) = nullptr;
  void (*norm_add)(void* backend, const NormAddArgs&) = nullptr;
  void (*linear)(void* backend, const LinearArgs&) = nullptr;
  void (*linear_clusters)(void* backend, const LinearClustersArgs&) = nullptr;
  void (*linear_geglu)(void* backend, const LinearGegluArgs&) = nullptr;
  void (*gelu_mul)(void* backend, const GeluMulArgs&) = nullptr;
  void (*rope_table)(void* backend, const RopeTableArgs&) = nullptr;
  void (*qkv_post)(void* backend, const QkvPostArgs&) = nullptr;
  void (*attention)(void* backend, const AttentionArgs&) = nullptr;
  void (*route)(void* backend, const RouteArgs&) = nullptr;
  void (*experts)(void* backend, const ExpertsArgs&) = nullptr;
  void (*softcap)(void* backend, const SoftcapArgs&) = nullptr;

  // Null: the host draws from rows that it fetches.
  void (*pick)(void* backend, const PickArgs&) = nullptr;

  // Host work: task(context, i) once for every i in [0, count), on any thread, in any order.
  void (*for_each)(void* backend, int count, void (*task)(void* context, int i),
                   void* context) = nullptr;
};

}  // namespace tandem::kernels
