// Products over several weights at once, spread over the team: what linear, linear_clusters,
// linear_geglu and experts are made of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/linear_kernel.h"
#include "kernels/ops.h"

namespace tandem::kernels {

// y = x W^T for the rows that meet one weight.
struct Product {
  const float* x = nullptr;  // [.., x_stride]
  int64_t x_stride = 0;
  const int32_t* x_rows = nullptr;  // [rows] rows of x; null: 0, 1, ...
  int rows = 0;                     // at least 1
  WeightView w;
  Finish finish = Finish::kStore;
  float* y = nullptr;  // [.., y_stride]
  int64_t y_stride = 0;
  int columns = 0;                  // of y
  const int32_t* y_rows = nullptr;  // [rows] kAddScaled
  const float* scales = nullptr;    // [rows] kAddScaled

  // Set when the products are run.
  int blocks = 0;
  int task_tiles = 0;           // outputs of one task
  int row_parts = 0;            // tasks side by side in rows
  int64_t pack_begin = 0;       // the first of this product's pack tasks
  int64_t task_begin = 0;       // the first of its product tasks
  std::byte* panels = nullptr;  // in CpuBackend::panels
};

// The kernel for the backend's level and dtype and a format of weights; at a level with
// instructions, not kRef.
const LinearKernel& KernelOf(const CpuBackend& backend, WeightFormat format, bool f32_operands);

// Runs every product; they write to different places, in any order.
void RunProducts(CpuBackend& backend, const LinearKernel& kernel, std::span<Product> products);

// Runs the products, all kAddScaled and of the same w.out, so that each y is added to in the order
// of `products`.
void RunProductsInOrder(CpuBackend& backend, const LinearKernel& kernel,
                        std::span<Product> products);

// Multiplies every row by each of its clusters. A cluster that two rows chose is read twice: what
// is chosen fits the caches, and rows rarely choose the same.
void RunClusters(CpuBackend& backend, const LinearKernel& kernel, const LinearClustersArgs& args);

}  // namespace tandem::kernels
