#include "kernels/cpu/experts.h"

#include <algorithm>
#include <cstddef>

#include "kernels/cpu/backend_impl.h"

namespace tandem::kernels {
namespace {

// Rows routed together; bounds the memory between the two products. Each pass reads its experts
// once: at 512 rows with 8 of 128 experts, 32 rows share a read.
constexpr int kPassRows = 512;

// Groups the (row, expert) pairs by expert with a stable counting sort: expert e then holds
// [ends[e - 1], ends[e]) of `rows` and `weights`.
void GroupByExpert(const int32_t* ids, const float* weights, int pairs, int top_k, int experts,
                   ExpertScratch& scratch) {
  // While placing, ends[e] is the next place of expert e.
  scratch.ends.assign(static_cast<size_t>(experts) + 1, 0);
  for (int i = 0; i < pairs; ++i) ++scratch.ends[ids[i] + 1];
  for (int e = 0; e < experts; ++e) scratch.ends[e + 1] += scratch.ends[e];
  scratch.rows.resize(pairs);
  scratch.weights.resize(pairs);
  for (int i = 0; i < pairs; ++i) {
    const int32_t place = scratch.ends[ids[i]]++;
    scratch.rows[place] = i / top_k;
    scratch.weights[place] = weights[i];
  }
}

// The experts of rows [row_begin, row_begin + rows) of `args`.
void RunPass(CpuBackend& backend, const ExpertsArgs& args, int row_begin, int rows) {
  const int pairs = rows * args.top_k;
  const int experts = static_cast<int>(args.gate_up.size());
  const int64_t first_pair = int64_t{row_begin} * args.top_k;
  ExpertScratch& scratch = backend.experts;
  GroupByExpert(args.ids + first_pair, args.weights + first_pair, pairs, args.top_k, experts,
                scratch);

  const float* x = AsF32(args.x) + int64_t{row_begin} * args.dim;
  float* const out = args.out + int64_t{row_begin} * args.dim;
  float* const hidden = reinterpret_cast<float*>(  // [pairs, width]
      backend.hidden.Reserve(sizeof(float) * pairs * args.width));

  std::vector<Product>& products = scratch.products;
  const auto kernel = [&]() -> const LinearKernel& {
    return KernelOf(backend, products[0].w.format, /*f32_operands=*/false);
  };
  products.clear();
  for (int e = 0; e < experts; ++e) {
    const int32_t begin = e == 0 ? 0 : scratch.ends[e - 1];
    const int32_t count = scratch.ends[e] - begin;
    if (count == 0) continue;
    products.push_back({.x = x,
                        .x_stride = args.dim,
                        .x_rows = scratch.rows.data() + begin,
                        .rows = count,
                        .w = args.gate_up[e],
                        .finish = Finish::kGeglu,
                        .y = hidden + int64_t{begin} * args.width,
                        .y_stride = args.width,
                        .columns = args.width});
  }
  RunProducts(backend, kernel(), products);

  std::fill(out, out + int64_t{rows} * args.dim, 0.0f);
  products.clear();
  for (int e = 0; e < experts; ++e) {
    const int32_t begin = e == 0 ? 0 : scratch.ends[e - 1];
    const int32_t count = scratch.ends[e] - begin;
    if (count == 0) continue;
    products.push_back({.x = hidden + int64_t{begin} * args.width,
                        .x_stride = args.width,
                        .rows = count,
                        .w = args.down[e],
                        .finish = Finish::kAddScaled,
                        .y = out,
                        .y_stride = args.dim,
                        .columns = args.dim,
                        .y_rows = scratch.rows.data() + begin,
                        .scales = scratch.weights.data() + begin});
  }
  RunProductsInOrder(backend, kernel(), products);
}

}  // namespace

void Experts(void* backend, const ExpertsArgs& args) {
  if (args.top_k == 0) {
    std::fill(args.out, args.out + int64_t{args.rows} * args.dim, 0.0f);
    return;
  }
  for (int row = 0; row < args.rows; row += kPassRows) {
    RunPass(BackendOf(backend), args, row, std::min(kPassRows, args.rows - row));
  }
}

}  // namespace tandem::kernels
