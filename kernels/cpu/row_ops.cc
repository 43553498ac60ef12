// Hands rows to the team. A call whose work would take a few microseconds stays on the caller.
//
// embed, rope_table and route gain nothing from vectors: they are here once, for every level above
// kRef.
#include "kernels/cpu/row_ops.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/code_layout.h"
#include "kernels/cpu/row_ops_kernels.h"
#include "kernels/reference/row_ops_ref.h"

namespace tandem::kernels {
namespace {

// One piece of work, in values streamed through a norm: about 4 us, twice what waking costs.
constexpr int64_t kPieceValues = 16384;

// Rows per piece when one value costs `cost` times a norm's.
int64_t PieceRows(int64_t row_values, int64_t cost = 1) {
  return std::max<int64_t>(1, kPieceValues / std::max<int64_t>(1, row_values * cost));
}

template <const RowKernels& kKernels>
void RmsNorm(void* backend, const RmsNormArgs& args) {
  BackendOf(backend).team.ForEach(
      args.rows, PieceRows(args.dim), [&](int, int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          kKernels.rms_norm(args.x + t * args.dim, args.weight, AsF32(args.y) + t * args.dim,
                            args.dim, args.eps);
        }
      });
}

template <const RowKernels& kKernels>
void NormAdd(void* backend, const NormAddArgs& args) {
  const float scale = args.scale != nullptr ? *args.scale : 1.0f;
  BackendOf(backend).team.ForEach(
      args.rows, PieceRows(args.dim), [&](int, int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          kKernels.norm_add(args.a + t * args.dim, args.weight, args.h + t * args.dim, args.dim,
                            args.eps, scale);
        }
      });
}

template <const RowKernels& kKernels>
void Ple(void* backend, const PleArgs& args) {
  const int64_t row_values = int64_t{args.layers} * args.width;
  BackendOf(backend).team.ForEach(
      static_cast<int64_t>(args.ids.size()), PieceRows(row_values),
      [&](int, int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const int64_t id = args.ids[t] >= 0 && args.ids[t] < args.table_rows ? args.ids[t] : 0;
          const std::byte* table = reinterpret_cast<const std::byte*>(args.table) +
                                   id * row_values * int64_t{sizeof(Bf16)};
          float* ctx = args.ctx + t * row_values;
          for (int l = 0; l < args.layers; ++l) {
            kKernels.ple(table, args.norm, ctx, args.width, args.ctx_scale, args.table_scale,
                         args.out_scale, args.eps);
            table += int64_t{args.width} * sizeof(Bf16);
            ctx += args.width;
          }
        }
      });
}

template <const RowKernels& kKernels>
void GeluMul(void* backend, const GeluMulArgs& args) {
  BackendOf(backend).team.ForEach(
      args.rows, PieceRows(args.dim, 4), [&](int, int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          kKernels.gelu_mul(args.a + t * args.a_stride, args.b + t * args.b_stride,
                            AsF32(args.y) + t * args.y_stride, args.dim);
        }
      });
}

template <const RowKernels& kKernels>
void Softcap(void* backend, const SoftcapArgs& args) {
  BackendOf(backend).team.ForEach(args.count, kPieceValues, [&](int, int64_t begin, int64_t end) {
    kKernels.softcap(args.x + begin, end - begin, args.cap);
  });
}

// A row of the packed table is one 4-byte pair of values from every 64-byte line of its tile.
void EmbedBf16Row(const WeightView& table, size_t n, float scale, float* out) {
  const size_t pairs = (static_cast<size_t>(table.in) + 1) / 2;
  const Bf16* row = table.data + n / kTileOutputs * pairs * 2 * kTileOutputs + n % kTileOutputs * 2;
  for (int k = 0; k < table.in; ++k) {
    out[k] = ToFloat(row[k / 2 * 2 * kTileOutputs + k % 2]) * scale;
  }
}

void EmbedCodesRow(const WeightView& table, int n, float scale, float* out) {
  for (int k = 0; k < table.in; ++k) {
    out[k] = DecodeWeight(ScaleAt(table, n, k), CodeAt(table, n, k)) * scale;
  }
}

void Embed(void* backend, const EmbedArgs& args) {
  const int dim = args.table.in;
  const int64_t out_stride = args.out_stride > 0 ? args.out_stride : dim;
  BackendOf(backend).team.ForEach(static_cast<int64_t>(args.ids.size()), PieceRows(dim, 8),
                                  [&](int, int64_t begin, int64_t end) {
                                    for (int64_t t = begin; t < end; ++t) {
                                      float* out = AsF32(args.out) + t * out_stride;
                                      if (args.table.format == WeightFormat::kBf16) {
                                        EmbedBf16Row(args.table, static_cast<size_t>(args.ids[t]),
                                                     args.scale, out);
                                      } else {
                                        EmbedCodesRow(args.table, args.ids[t], args.scale, out);
                                      }
                                    }
                                  });
}

void RopeTable(void* backend, const RopeTableArgs& args) {
  const int64_t live = static_cast<int64_t>(args.inv_freq.size());
  BackendOf(backend).team.ForEach(static_cast<int64_t>(args.positions.size()), PieceRows(live, 64),
                                  [&](int, int64_t begin, int64_t end) {
                                    for (int64_t t = begin; t < end; ++t) {
                                      const float position = static_cast<float>(args.positions[t]);
                                      for (int64_t j = 0; j < live; ++j) {
                                        // The C library reduces the full range: position 262143 is
                                        // as exact as position 1.
                                        const float angle = position * args.inv_freq[j];
                                        args.cos[t * live + j] = std::cos(angle);
                                        args.sin[t * live + j] = std::sin(angle);
                                      }
                                    }
                                  });
}

void RouteRow(const RouteArgs& args, int64_t t) {
  const float* logits = args.logits + t * args.experts;
  int32_t* ids = args.ids + t * args.top_k;
  float* weights = args.weights + t * args.top_k;

  // The best top_k so far in `ids`, best first; an equal later expert goes behind.
  int held = 0;
  for (int e = 0; e < args.experts; ++e) {
    int at = held;
    while (at > 0 && logits[e] > logits[ids[at - 1]]) --at;
    if (at == args.top_k) continue;
    held = std::min(held + 1, args.top_k);
    for (int k = held - 1; k > at; --k) ids[k] = ids[k - 1];
    ids[at] = e;
  }
  const float max = logits[ids[0]];
  std::sort(ids, ids + args.top_k);

  // Renormalised over the chosen, the softmax over all of them cancels to this.
  float sum = 0.0f;
  for (int k = 0; k < args.top_k; ++k) {
    weights[k] = std::exp(logits[ids[k]] - max);
    sum += weights[k];
  }
  for (int k = 0; k < args.top_k; ++k) {
    weights[k] = weights[k] / sum * args.expert_scale[ids[k]];
  }
}

void Route(void* backend, const RouteArgs& args) {
  BackendOf(backend).team.ForEach(args.rows, PieceRows(args.experts, 16),
                                  [&](int, int64_t begin, int64_t end) {
                                    for (int64_t t = begin; t < end; ++t) RouteRow(args, t);
                                  });
}

template <const RowKernels& kKernels>
void FillVectorOps(Ops& ops) {
  ops.ple = Ple<kKernels>;
  ops.rms_norm = RmsNorm<kKernels>;
  ops.norm_add = NormAdd<kKernels>;
  ops.gelu_mul = GeluMul<kKernels>;
  ops.softcap = Softcap<kKernels>;
  ops.embed = Embed;
  ops.rope_table = RopeTable;
  ops.route = Route;
}

}  // namespace

void FillRowOps(CpuIsa isa, Ops& ops) {
  switch (isa) {
    case CpuIsa::kRef:
      ops.embed = [](void*, const EmbedArgs& args) { EmbedReference(args); };
      ops.ple = [](void*, const PleArgs& args) { PleReference(args); };
      ops.rms_norm = [](void*, const RmsNormArgs& args) { RmsNormReference(args); };
      ops.norm_add = [](void*, const NormAddArgs& args) { NormAddReference(args); };
      ops.gelu_mul = [](void*, const GeluMulArgs& args) { GeluMulReference(args); };
      ops.rope_table = [](void*, const RopeTableArgs& args) { RopeTableReference(args); };
      ops.route = [](void*, const RouteArgs& args) { RouteReference(args); };
      ops.softcap = [](void*, const SoftcapArgs& args) { SoftcapReference(args); };
      return;
    case CpuIsa::kAvx2:
      FillVectorOps<kRowKernelsAvx2>(ops);
      return;
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Bf16:
      FillVectorOps<kRowKernelsAvx512>(ops);
      return;
  }
}

}  // namespace tandem::kernels
