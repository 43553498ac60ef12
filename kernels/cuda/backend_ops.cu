// kernels::Ops over the CUDA kernels: every operation is a launch or two on one stream.
//
// Shapes are checked where a model is loaded.
#include <algorithm>
#include <span>
#include <vector>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/dequant_weights.h"
#include "kernels/cuda/embed_codes.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/norms.h"
#include "kernels/cuda/pick.h"
#include "kernels/cuda/qkv_post.h"
#include "kernels/cuda/rope_table.h"
#include "kernels/cuda/route.h"
#include "kernels/cuda/router_logits.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/w_linear.h"
#include "kernels/cuda/w_linear_clusters.h"
#include "kernels/cuda/w_linear_codes.h"

namespace tandem::kernels::K_WORLD {
namespace {

constexpr int kBlocksPerMultiprocessor = 4;  // of attention's grid

const bf16* Operands(const void* p) { return static_cast<const bf16*>(p); }
bf16* Operands(void* p) { return static_cast<bf16*>(p); }
float* Floats(void* p) { return static_cast<float*>(p); }

// Null once something has failed: what later operations would read may not be there.
Backend* Working(void* backend) {
  Backend& b = BackendOf(backend);
  return b.status().ok() ? &b : nullptr;
}

}  // namespace

void Backend::FillKernelOps() {
  ops_.embed = [](void* b, const kernels::EmbedArgs& args) {
    if (Backend* const backend = Working(b)) backend->Embed(args);
  };
  ops_.ple = [](void* b, const kernels::PleArgs& args) {
    if (Backend* const backend = Working(b)) backend->Ple(args);
  };
  ops_.rms_norm = [](void* b, const RmsNormArgs& args) {
    Backend* const backend = Working(b);
    if (backend == nullptr) return;
    NormRows({.x = args.x,
              .weight = args.weight,
              .y = args.y_f32 ? nullptr : Operands(args.y),
              .y_f32 = args.y_f32 ? Floats(args.y) : nullptr,
              .rows = args.rows,
              .dim = args.dim,
              .eps = args.eps},
             backend->stream());
  };
  ops_.norm_add = [](void* b, const kernels::NormAddArgs& args) {
    Backend* const backend = Working(b);
    if (backend == nullptr) return;
    NormAdd({.a = args.a,
             .weight = args.weight,
             .h = args.h,
             .rows = args.rows,
             .dim = args.dim,
             .eps = args.eps,
             .scale = args.scale},
            backend->stream());
  };
  ops_.linear = [](void* b, const LinearArgs& args) {
    if (Backend* const backend = Working(b)) backend->Linear(args);
  };
  ops_.linear_clusters = [](void* b, const LinearClustersArgs& args) {
    if (Backend* const backend = Working(b)) backend->LinearClusters(args);
  };
  ops_.linear_geglu = [](void* b, const LinearGegluArgs& args) {
    if (Backend* const backend = Working(b)) backend->LinearGeglu(args);
  };
  ops_.gelu_mul = [](void* b, const kernels::GeluMulArgs& args) {
    Backend* const backend = Working(b);
    if (backend == nullptr) return;
    GeluMul({.a = args.a,
             .a_stride = args.a_stride,
             .b = args.b,
             .b_stride = args.b_stride,
             .y = Operands(args.y),
             .y_stride = args.y_stride,
             .rows = args.rows,
             .dim = args.dim},
            backend->stream());
  };
  ops_.rope_table = [](void* b, const kernels::RopeTableArgs& args) {
    Backend* const backend = Working(b);
    if (backend == nullptr) return;
    RopeTable({.positions = args.positions.data(),
               .inv_freq = args.inv_freq.data(),
               .live = static_cast<int>(args.inv_freq.size()),
               .rows = static_cast<int>(args.positions.size()),
               .cos = args.cos,
               .sin = args.sin},
              backend->stream());
  };
  ops_.qkv_post = [](void* b, const kernels::QkvPostArgs& args) {
    if (Backend* const backend = Working(b)) backend->QkvPost(args);
  };
  ops_.attention = [](void* b, const AttentionArgs& args) {
    if (Backend* const backend = Working(b)) backend->Attention(args);
  };
  ops_.route = [](void* b, const kernels::RouteArgs& args) {
    if (Backend* const backend = Working(b)) backend->Route(args);
  };
  ops_.experts = [](void* b, const kernels::ExpertsArgs& args) {
    if (Backend* const backend = Working(b)) backend->Experts(args);
  };
  ops_.softcap = [](void* b, const kernels::SoftcapArgs& args) {
    Backend* const backend = Working(b);
    if (backend == nullptr) return;
    Softcap({.x = args.x, .count = args.count, .cap = args.cap}, backend->stream());
  };
  ops_.pick = [](void* b, const kernels::PickArgs& args) { BackendOf(b).Pick(args); };
}

void Backend::Embed(const kernels::EmbedArgs& args) {
  const int rows = static_cast<int>(args.ids.size());
  const int64_t stride = args.out_stride > 0 ? args.out_stride : args.table.in;
  float* const out_f32 = args.out_operands ? nullptr : Floats(args.out);
  bf16* const out = args.out_operands ? Operands(args.out) : nullptr;
  if (args.table.format == WeightFormat::kBf16) {
    K_WORLD::Embed({.table = args.table.data,
                    .ids = args.ids.data(),
                    .scale = args.scale,
                    .out_f32 = out_f32,
                    .out = out,
                    .out_stride = stride,
                    .rows = rows,
                    .dim = args.table.in},
                   stream());
  } else {
    EmbedCodes({.codes = args.table.codes,
                .scales = args.table.scales,
                .ids = args.ids.data(),
                .scale = args.scale,
                .out_f32 = out_f32,
                .out = out,
                .out_stride = stride,
                .rows = rows,
                .dim = args.table.in},
               stream());
  }
}

void Backend::Ple(const kernels::PleArgs& args) {
  K_WORLD::Ple({.rows_of_table = reinterpret_cast<const bf16*>(ple_rows_.data()),
                .ctx = args.ctx,
                .norm = args.norm,
                .rows = static_cast<int>(args.ids.size()),
                .layers = args.layers,
                .width = args.width,
                .ctx_scale = args.ctx_scale,
                .table_scale = args.table_scale,
                .out_scale = args.out_scale,
                .eps = args.eps},
               stream());
}

WLinearArgs Backend::BfArgs(const LinearArgs& args) {
  return {.x = Operands(args.x),
          .x_stride = args.x_stride,
          .w = args.w.data,
          .y = args.y_operands ? Operands(args.y) : nullptr,
          .y_f32 = args.y_operands ? nullptr : Floats(args.y),
          .y_stride = args.y_stride,
          .rows = args.rows,
          .in = args.w.in,
          .out = args.w.out};
}

void Backend::Linear(const LinearArgs& args) {
  if (args.f32_operands) {
    RouterLogits({.x = static_cast<const float*>(args.x),
                  .x_stride = args.x_stride,
                  .w = args.w.data,
                  .y = Floats(args.y),
                  .rows = args.rows,
                  .in = args.w.in,
                  .experts = args.w.out},
                 stream());
    return;
  }
  const WLinearArgs plain = BfArgs(args);
  if (args.w.format == WeightFormat::kBf16) {
    if (args.prompt) {
      Note(prompt_gemm_.Linear(plain, stream()));
    } else {
      WLinear(plain, stream());
    }
    return;
  }
  const WLinearCodesArgs coded = {.x = plain.x,
                                  .x_stride = plain.x_stride,
                                  .format = args.w.format,
                                  .codes = args.w.codes,
                                  .scales = args.w.scales,
                                  .y = plain.y,
                                  .y_f32 = plain.y_f32,
                                  .y_stride = plain.y_stride,
                                  .rows = plain.rows,
                                  .in = plain.in,
                                  .out = plain.out};
  if (args.prompt) {
    Note(prompt_gemm_.LinearCodes(coded, Scratch(args.w.in), stream()));
  } else {
    WLinearCodes(coded, stream());
  }
}

void Backend::LinearClusters(const LinearClustersArgs& args) {
  WLinearClusters({.x = Operands(args.x),
                   .x_stride = args.x_stride,
                   .w = args.first.data,
                   .cluster_elements = static_cast<int64_t>(args.cluster_elements),
                   .ids = args.ids,
                   .chosen = args.chosen,
                   .y = args.y,
                   .y_stride = args.y_stride,
                   .rows = args.rows,
                   .in = args.first.in,
                   .cluster_rows = args.first.out},
                  stream());
}

void Backend::LinearGeglu(const LinearGegluArgs& args) {
  if (args.w.format == WeightFormat::kBf16) {
    const WLinearGegluArgs plain = {.x = Operands(args.x),
                                    .x_stride = args.x_stride,
                                    .w = args.w.data,
                                    .y = Operands(args.y),
                                    .y_stride = args.y_stride,
                                    .rows = args.rows,
                                    .in = args.w.in,
                                    .width = args.width};
    if (args.prompt) {
      Note(prompt_gemm_.Geglu(plain, stream()));
    } else {
      WLinearGeglu(plain, stream());
    }
    return;
  }
  const WLinearCodesGegluArgs coded = {.x = Operands(args.x),
                                       .x_stride = args.x_stride,
                                       .format = args.w.format,
                                       .codes = args.w.codes,
                                       .scales = args.w.scales,
                                       .y = Operands(args.y),
                                       .y_stride = args.y_stride,
                                       .rows = args.rows,
                                       .in = args.w.in,
                                       .width = args.width};
  if (args.prompt) {
    Note(prompt_gemm_.GegluCodes(coded, Scratch(args.w.in), stream()));
  } else {
    WLinearCodesGeglu(coded, stream());
  }
}

void Backend::QkvPost(const kernels::QkvPostArgs& args) {
  KvRowCounts* counts = nullptr;
  for (int g = 0; g < kNumStagedGroups; ++g) {
    if (args.counts != nullptr && args.counts == told_counts_[g]) {
      counts = reinterpret_cast<KvRowCounts*>(counts_.data()) + g;
    }
  }
  K_WORLD::QkvPost({.qkv = args.qkv,
                    .stride = args.stride,
                    .rows = args.rows,
                    .num_q_heads = args.num_q_heads,
                    .num_kv_heads = args.num_kv_heads,
                    .head_dim = args.head_dim,
                    .has_v = args.has_v,
                    .q_norm = args.q_norm,
                    .k_norm = args.k_norm,
                    .cos = args.cos,
                    .sin = args.sin,
                    .live = args.live,
                    .eps = args.eps,
                    .kv = args.kv,
                    .cells = args.cells,
                    .nonfinite = reinterpret_cast<int32_t*>(args.nonfinite),
                    .counts = counts},
                   stream());
}

void Backend::Attention(const AttentionArgs& args) {
  if (!status_.ok()) return;
  const StagedAttention& staged = stage_.attention(args.group);
  const auto* q = reinterpret_cast<const uint16_t*>(args.q);
  const int64_t q_stride = 2 * args.q_stride;
  const int64_t q_head_stride = int64_t{2} * args.head_dim;
  const int blocks = kBlocksPerMultiprocessor * limits_.multiprocessors;
  AttentionWork work = {.items = staged.items,
                        .parts = staged.parts,
                        .part_of_row = staged.part_of_row,
                        .visible = staged.visible,
                        .grain = staged.grain,
                        .chunk_tokens = staged.chunk_tokens,
                        .max_slots = limits_.max_slots};
  if (stage_.args().prompt) {
    work.wave = staged.waves;
    AttentionDirect({.work = work,
                     .q = q,
                     .q_stride = q_stride,
                     .q_head_stride = q_head_stride,
                     .block_tables = staged.block_tables,
                     .table_stride = staged.table_stride,
                     .num_q_heads = args.num_q_heads,
                     .num_kv_heads = args.num_kv_heads,
                     .head_dim = args.head_dim,
                     .kv = args.kv,
                     .out = Operands(args.out),
                     .blocks = blocks},
                    stream());
    return;
  }
  const size_t bytes = AttentionWorkspaceBytes(limits_.max_slots, kMostMTiles, kMostHeadDim);
  work.partials = reinterpret_cast<float*>(Grown(partials_, bytes, "partial results of attention"));
  if (work.partials == nullptr) return;
  for (int wave = 0; wave < staged.num_waves; ++wave) {
    work.wave = staged.waves + wave;
    AttentionSplit({.work = work,
                    .q = q,
                    .q_stride = q_stride,
                    .q_head_stride = q_head_stride,
                    .block_tables = staged.block_tables,
                    .table_stride = staged.table_stride,
                    .num_q_heads = args.num_q_heads,
                    .num_kv_heads = args.num_kv_heads,
                    .head_dim = args.head_dim,
                    .kv = args.kv,
                    .blocks = blocks},
                   stream());
    AttentionMerge({.work = work,
                    .out = Operands(args.out),
                    .rows = stage_.rows(),
                    .num_q_heads = args.num_q_heads,
                    .num_kv_heads = args.num_kv_heads,
                    .head_dim = args.head_dim,
                    .v_format = args.kv.v_format},
                   stream());
  }
}

void Backend::Route(const kernels::RouteArgs& args) {
  K_WORLD::Route({.logits = args.logits,
                  .rows = args.rows,
                  .experts = args.experts,
                  .top_k = args.top_k,
                  .expert_scale = args.expert_scale,
                  .ids = args.ids,
                  .weights = args.weights},
                 stream());
}

void Backend::Pick(const kernels::PickArgs& args) {
  const int count = static_cast<int>(args.requests.size());
  std::fill_n(args.ids, count, -1);
  std::vector<K_WORLD::PickRequest> requests;
  bool cuts = false;
  for (const kernels::PickRequest& request : args.requests) {
    requests.push_back({.seed = request.seed,
                        .position = request.position,
                        .row = request.row,
                        .temperature = request.temperature,
                        .top_k = request.top_k,
                        .top_p = request.top_p,
                        .min_p = request.min_p,
                        .choice = request.choice});
    cuts = cuts || (request.temperature > 0 && (request.top_k > 0 || request.top_p < 1));
  }
  const size_t request_bytes = requests.size() * sizeof(requests[0]);
  std::byte* const there = Grown(picks_, request_bytes + 2 * count * sizeof(int32_t), "draws");
  std::byte* const workspace =
      Grown(pick_workspace_, PickWorkspaceBytes(count, args.vocab, cuts), "draws");
  if (there == nullptr || workspace == nullptr) return;
  Write(there, requests.data(), request_bytes);
  auto* const ids = reinterpret_cast<int32_t*>(there + request_bytes);
  K_WORLD::Pick({.logits = args.logits,
                 .stride = args.vocab,
                 .suppressed = args.suppressed,
                 .requests = reinterpret_cast<const K_WORLD::PickRequest*>(there),
                 .count = count,
                 .vocab = args.vocab,
                 .cuts = cuts,
                 .workspace = workspace,
                 .ids = ids,
                 .finite = ids + count},
                stream());
  const auto* drawn = static_cast<const int32_t*>(Fetch(ids, count * sizeof(int32_t)));
  if (status_.ok()) std::copy_n(drawn, count, args.ids);
}

namespace {

// Matrices of one shape, one behind the other.
ExpertMatrices MatricesOf(std::span<const WeightView> views) {
  ExpertMatrices matrices = {.format = views[0].format,
                             .w = views[0].data,
                             .codes = views[0].codes,
                             .scales = views[0].scales};
  if (views.size() < 2) return matrices;
  if (views[0].format == WeightFormat::kBf16) {
    matrices.stride = views[1].data - views[0].data;
  } else {
    matrices.stride = views[1].codes - views[0].codes;
    matrices.scale_stride = views[1].scales - views[0].scales;
  }
  return matrices;
}

}  // namespace

void Backend::Experts(const kernels::ExpertsArgs& args) {
  const int experts = static_cast<int>(args.gate_up.size());
  std::byte* const workspace =
      Grown(experts_, ExpertsWorkspaceBytes(args.rows, args.dim, args.width, experts, args.top_k),
            "experts");
  if (workspace == nullptr) return;
  K_WORLD::Experts({.x = Operands(args.x),
                    .x_stride = args.dim,
                    .gate_up = MatricesOf(args.gate_up),
                    .down = MatricesOf(args.down),
                    .ids = args.ids,
                    .weights = args.weights,
                    .out = args.out,
                    .rows = args.rows,
                    .dim = args.dim,
                    .width = args.width,
                    .experts = experts,
                    .top_k = args.top_k,
                    .prompt = stage_.args().prompt},
                   workspace, stream());
}

}  // namespace tandem::kernels::K_WORLD
