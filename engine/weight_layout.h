// Where weights lie in one block of memory, and which checkpoint tensor fills which part of it.
//
// Not here  what weights a model has (weights.h, assistant_weights.h); filling (fill_weights.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/types.h"

namespace tandem::engine {

// One checkpoint tensor, and where its values go and as what.
struct WeightItem {
  enum class Kind {
    kMatrix,        // rows of a packed matrix, from row `row_begin` on
    kGate,          // interleaved; `name` gate, `up_name` up, both [shape[0], shape[1]]
    kExpertGateUp,  // [E, 2M, H], gate rows first; one interleaved matrix per expert
    kExpertDown,    // [E, H, M]; one packed matrix per expert
    kClusters,      // rows of [V, H] in the order of the kTokenIds item before it; one packed
                    // matrix per `cluster_rows` of them
    kVector,        // widened to f32 and multiplied by `scale`
    kTokenIds,      // a permutation of 0..shape[0]-1, as int32
  };
  Kind kind = Kind::kMatrix;
  std::string name;     // as the model's weights are named; the loader knows where files have it
  std::string up_name;  // kGate only
  std::vector<int64_t> shape;
  std::byte* target = nullptr;  // first packed matrix or its codes, the vector, or the ids
  kernels::WeightFormat format = kernels::WeightFormat::kBf16;  // of matrices
  kernels::F16* scales = nullptr;                               // of the first matrix of codes
  // From one expert's or cluster's matrix to the next.
  size_t part_bytes = 0;
  size_t part_scales = 0;
  int row_begin = 0;
  int cluster_rows = 0;
  float scale = 1.0f;
};

// Values in the item's tensors.
int64_t NumElements(const WeightItem& item);

// Hands out places behind `base` (64-byte aligned; null to learn the size) and notes what goes
// there. Every call returns views into that memory and appends to `items`.
class WeightLayout {
 public:
  WeightLayout(std::byte* base, std::vector<WeightItem>& items)
      : base_(reinterpret_cast<uintptr_t>(base)), items_(items) {}

  size_t used() const { return used_; }

  // A packed matrix that tensors of (name, rows) fill from top to bottom.
  kernels::WeightView Matrix(kernels::WeightFormat format, int in,
                             const std::vector<std::pair<std::string, int>>& parts);
  // Interleaved as kernels::LinearGegluArgs wants it.
  kernels::WeightView GateUp(kernels::WeightFormat format, const std::string& gate,
                             const std::string& up, int width, int in);
  // [experts, 2 * width, in] and [experts, out, width].
  std::vector<kernels::WeightView> ExpertGateUp(kernels::WeightFormat format,
                                                const std::string& name, int experts, int width,
                                                int in);
  std::vector<kernels::WeightView> ExpertDown(kernels::WeightFormat format, const std::string& name,
                                              int experts, int out, int width);
  // Rows of [rows, in] in the order of the TokenIds placed last, `cluster_rows` to a packed matrix;
  // the first one.
  // Bf16: the few that are chosen cost little to read (kernels.md 4.4).
  kernels::WeightView Clusters(const std::string& name, int rows, int in, int cluster_rows);
  const float* Vector(const std::string& name, int size, float scale = 1.0f);
  const int32_t* TokenIds(const std::string& name, int size);

 private:
  std::byte* Take(size_t bytes);
  WeightItem& Add(WeightItem::Kind kind, const std::string& name, std::vector<int64_t> shape,
                  std::byte* target);
  std::vector<kernels::WeightView> Experts(WeightItem& item, int out, int in);
  // Takes the place of `count` matrices, one behind the other, for `item`, whose format is set.
  kernels::WeightView Place(WeightItem& item, int out, int in, int64_t count);

  uintptr_t base_;
  std::vector<WeightItem>& items_;
  size_t used_ = 0;
};

}  // namespace tandem::engine
