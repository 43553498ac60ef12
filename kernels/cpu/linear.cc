#include "kernels/cpu/linear.h"

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/experts.h"
#include "kernels/cpu/product.h"
#include "kernels/reference/linear_ref.h"

namespace tandem::kernels {
namespace {

void Linear(void* backend, const LinearArgs& args) {
  if (args.rows == 0) return;
  CpuBackend& cpu = BackendOf(backend);
  Product product = {.x = AsF32(args.x),
                     .x_stride = args.x_stride,
                     .rows = args.rows,
                     .w = args.w,
                     .finish = Finish::kStore,
                     .y = AsF32(args.y),
                     .y_stride = args.y_stride,
                     .columns = args.w.out};
  RunProducts(cpu, KernelOf(cpu, args.w.format, args.f32_operands), {&product, 1});
}

void LinearClusters(void* backend, const LinearClustersArgs& args) {
  if (args.rows == 0 || args.chosen == 0 || args.first.out == 0) return;
  CpuBackend& cpu = BackendOf(backend);
  RunClusters(cpu, KernelOf(cpu, WeightFormat::kBf16, false), args);
}

void LinearGeglu(void* backend, const LinearGegluArgs& args) {
  if (args.rows == 0) return;
  CpuBackend& cpu = BackendOf(backend);
  Product product = {.x = AsF32(args.x),
                     .x_stride = args.x_stride,
                     .rows = args.rows,
                     .w = args.w,
                     .finish = Finish::kGeglu,
                     .y = AsF32(args.y),
                     .y_stride = args.y_stride,
                     .columns = args.width};
  RunProducts(cpu, KernelOf(cpu, args.w.format, false), {&product, 1});
}

}  // namespace

void PackF32(const PackTask& task) {
  float* const panel = reinterpret_cast<float*>(task.panel);
  const int64_t rows = task.rows;
  for (int r = 0; r < task.rows; ++r) {
    const float* x = task.x + (task.row_ids != nullptr ? task.row_ids[r] : r) * task.x_stride;
    for (int pair = task.unit_begin; pair < task.unit_end; ++pair) {
      const int k = 2 * pair;
      panel[k * rows + r] = x[k];
      panel[(k + 1) * rows + r] = k + 1 < task.in ? x[k + 1] : 0.0f;
    }
  }
}

void FillLinearOps(CpuIsa isa, Ops& ops) {
  if (isa == CpuIsa::kRef) {
    ops.linear = [](void*, const LinearArgs& args) {
      LinearReference(args, ReferenceOperands(args.w.format));
    };
    ops.linear_clusters = [](void*, const LinearClustersArgs& args) {
      LinearClustersReference(args, Operands::kF32);
    };
    ops.linear_geglu = [](void*, const LinearGegluArgs& args) {
      LinearGegluReference(args, ReferenceOperands(args.w.format));
    };
    ops.experts = [](void*, const ExpertsArgs& args) {
      if (args.rows == 0 || args.top_k == 0) return ExpertsReference(args, Operands::kF32);
      ExpertsReference(args, ReferenceOperands(args.gate_up[args.ids[0]].format));
    };
    return;
  }
  ops.linear = Linear;
  ops.linear_clusters = LinearClusters;
  ops.linear_geglu = LinearGeglu;
  ops.experts = Experts;
}

}  // namespace tandem::kernels
