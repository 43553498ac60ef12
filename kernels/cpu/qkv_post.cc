// Spreads qkv_post over the team, a token at a time; the arithmetic is in qkv_post.inc.
#include "kernels/cpu/qkv_post.h"

#include <algorithm>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/qkv_post_kernels.h"
#include "kernels/kv_row.h"
#include "kernels/reference/qkv_post_ref.h"

namespace tandem::kernels {
namespace {

// Values of one piece of work, about 4 us.
constexpr int64_t kPieceValues = 16384;

template <const QkvPostKernels& kKernels>
void QkvPostRow(const QkvPostArgs& args, int64_t t) {
  const int dim = args.head_dim;
  const float* cos = args.cos + t * args.live;
  const float* sin = args.sin + t * args.live;
  float* q = args.qkv + t * args.stride;
  const float* k = q + int64_t{args.num_q_heads} * dim;
  const float* v = args.has_v ? k + int64_t{args.num_kv_heads} * dim : k;
  for (int n = 0; n < args.num_q_heads; ++n, q += dim) {
    kKernels.norm_rope(q, args.q_norm, cos, sin, args.live, dim, args.eps, q);
  }
  if (args.num_kv_heads == 0) return;

  const KvView& kv = args.kv;
  const int64_t block = args.cells[t] >> kv.log2_block_tokens;
  const int cell = args.cells[t] & ((1 << kv.log2_block_tokens) - 1);
  alignas(64) float row[kMaxKvRowDim];
  for (int n = 0; n < args.num_kv_heads; ++n, k += dim, v += dim) {
    kKernels.norm_rope(k, args.k_norm, cos, sin, args.live, dim, args.eps, row);
    NoteKvRow(args, t, 0, kKernels.encode(row, kv.k_format, dim, KRowAt(kv, block, n, cell, dim)));
    kKernels.norm_rope(v, nullptr, cos, sin, 0, dim, args.eps, row);
    NoteKvRow(args, t, 1, kKernels.encode(row, kv.v_format, dim, VRowAt(kv, block, n, cell, dim)));
  }
}

template <const QkvPostKernels& kKernels>
void QkvPost(void* backend, const QkvPostArgs& args) {
  const int64_t row_values =
      (int64_t{args.num_q_heads} + 2 * int64_t{args.num_kv_heads}) * args.head_dim;
  BackendOf(backend).team.ForEach(args.rows, std::max<int64_t>(1, kPieceValues / row_values),
                                  [&](int, int64_t begin, int64_t end) {
                                    for (int64_t t = begin; t < end; ++t) {
                                      QkvPostRow<kKernels>(args, t);
                                    }
                                  });
}

}  // namespace

void FillQkvPostOps(CpuIsa isa, Ops& ops) {
  switch (isa) {
    case CpuIsa::kRef:
      ops.qkv_post = [](void*, const QkvPostArgs& args) { QkvPostReference(args); };
      return;
    case CpuIsa::kAvx2:
      ops.qkv_post = QkvPost<kQkvPostKernelsAvx2>;
      return;
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Bf16:
      ops.qkv_post = QkvPost<kQkvPostKernelsAvx512>;
      return;
  }
}

}  // namespace tandem::kernels
