// A library with the functions of cuBLASLt that we call, for host memory: it multiplies by plain
// loops. Of the two algorithms it names for a product, the first one's bits depend on the number of
// rows; the second adds k in descending order.
#include "tests/emu/fake_cublaslt.h"

#include <cstring>

#include "kernels/cuda/cublaslt_abi.h"

namespace {

using tandem::kernels::Bf16;
using tandem::kernels::LtAlgorithm;
using tandem::kernels::ToFloat;
namespace lt = tandem::kernels::lt;

constexpr int kNotInitialized = 1, kInvalidValue = 7, kNotSupported = 15;

struct FakeDesc {
  int32_t transposed_a = 0;
};
struct FakeLayout {
  int type;
  uint64_t rows;
  uint64_t columns;
  int64_t leading;
};
struct FakePreference {
  uint32_t reductions = 7;
  uint64_t workspace_bytes = 0;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

FakeFault fault = kFakeNone;
int products = 0;
char handle;

template <typename T>
int Assign(T* to, const void* value, size_t bytes) {
  if (bytes != sizeof(T)) return kInvalidValue;
  std::memcpy(to, value, bytes);
  return lt::kSuccess;
}

// Whether the matrices are those of y = w^T x: w [in, out], x [in, rows], y [out, rows].
bool Fits(const FakeDesc& desc, const FakeLayout& w, const FakeLayout& x, const FakeLayout& y) {
  return desc.transposed_a == lt::kTransposed && w.type == lt::kTypeBf16 &&
         x.type == lt::kTypeBf16 && y.type == lt::kTypeF32 && w.rows == x.rows &&
         w.columns == y.rows && x.columns == y.columns &&
         w.leading >= static_cast<int64_t>(w.rows) && x.leading >= static_cast<int64_t>(x.rows) &&
         y.leading >= static_cast<int64_t>(y.rows);
}

}  // namespace

extern "C" {

void fake_cublaslt_set(FakeFault next) {
  fault = next;
  products = 0;
}
int fake_cublaslt_products() { return products; }

size_t cublasLtGetVersion() { return fault == kFakeOldVersion ? 120304 : 130102; }

int cublasLtCreate(void** to) {
  *to = &handle;
  return fault == kFakeNoStart ? kNotInitialized : lt::kSuccess;
}
int cublasLtDestroy(void*) { return lt::kSuccess; }

int cublasLtMatmulDescCreate(void** desc, int compute, int scale) {
  *desc = new FakeDesc;
  return compute == lt::kComputeF32 && scale == lt::kTypeF32 ? lt::kSuccess : kNotSupported;
}
int cublasLtMatmulDescDestroy(void* desc) {
  delete static_cast<FakeDesc*>(desc);
  return lt::kSuccess;
}
int cublasLtMatmulDescSetAttribute(void* desc, int attribute, const void* value, size_t bytes) {
  if (attribute != lt::kDescTransA) return kInvalidValue;
  return Assign(&static_cast<FakeDesc*>(desc)->transposed_a, value, bytes);
}

int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns,
                               int64_t leading) {
  *layout = new FakeLayout{type, rows, columns, leading};
  return lt::kSuccess;
}
int cublasLtMatrixLayoutDestroy(void* layout) {
  delete static_cast<FakeLayout*>(layout);
  return lt::kSuccess;
}
int cublasLtMatrixLayoutSetAttribute(void* layout, int attribute, const void* value, size_t bytes) {
  FakeLayout& l = *static_cast<FakeLayout*>(layout);
  if (attribute == lt::kLayoutRows) return Assign(&l.rows, value, bytes);
  if (attribute == lt::kLayoutColumns) return Assign(&l.columns, value, bytes);
  if (attribute == lt::kLayoutLeading) return Assign(&l.leading, value, bytes);
  return kInvalidValue;
}

int cublasLtMatmulPreferenceCreate(void** preference) {
  *preference = new FakePreference;
  return lt::kSuccess;
}
int cublasLtMatmulPreferenceDestroy(void* preference) {
  delete static_cast<FakePreference*>(preference);
  return lt::kSuccess;
}
int cublasLtMatmulPreferenceSetAttribute(void* preference, int attribute, const void* value,
                                         size_t bytes) {
  FakePreference& p = *static_cast<FakePreference*>(preference);
  if (attribute == lt::kPreferReductions) return Assign(&p.reductions, value, bytes);
  if (attribute == lt::kPreferWorkspaceBytes) return Assign(&p.workspace_bytes, value, bytes);
  const int matrix = attribute - lt::kPreferAlignmentA;
  if (matrix >= 0 && matrix < 4) return Assign(&p.alignment[matrix], value, bytes);
  return kInvalidValue;
}

int cublasLtMatmulAlgoGetHeuristic(void*, void* desc, void* w, void* x, void*, void* y,
                                   void* preference, int requested, lt::HeuristicResult* results,
                                   int* returned) {
  const FakePreference& p = *static_cast<FakePreference*>(preference);
  *returned = 0;
  // 16-byte aligned operands and no split of k are what the caller must have asked for.
  bool right = p.reductions == lt::kNoReduction && p.workspace_bytes > 0 &&
               Fits(*static_cast<FakeDesc*>(desc), *static_cast<FakeLayout*>(w),
                    *static_cast<FakeLayout*>(x), *static_cast<FakeLayout*>(y));
  for (const uint32_t alignment : p.alignment) right = right && alignment == 16;
  if (!right || fault == kFakeNoAlgorithm) return kNotSupported;
  // The first one can not be used.
  for (uint64_t i = 0; i < 3 && static_cast<int>(i) < requested; ++i) {
    results[i].algorithm = {{i}};
    results[i].status = i == 0 ? kNotSupported : lt::kSuccess;
    ++*returned;
  }
  return lt::kSuccess;
}

int cublasLtMatmulAlgoCheck(void*, void* desc, void* w, void* x, void*, void* y, const LtAlgorithm*,
                            lt::HeuristicResult* result) {
  const FakeLayout& rows = *static_cast<FakeLayout*>(x);
  result->workspace_bytes = 1024;
  const bool can = Fits(*static_cast<FakeDesc*>(desc), *static_cast<FakeLayout*>(w), rows,
                        *static_cast<FakeLayout*>(y));
  return can && !(fault == kFakeNotAllRows && rows.columns == 5) ? lt::kSuccess : kNotSupported;
}

int cublasLtMatmul(void*, void*, const void* alpha, const void* a, void* a_layout, const void* b,
                   void* b_layout, const void* beta, const void*, void*, void* d, void* d_layout,
                   const LtAlgorithm* algorithm, void* workspace, size_t, void*) {
  if (fault == kFakeRefusesToRun || workspace == nullptr) return kNotSupported;
  ++products;
  const FakeLayout& w = *static_cast<FakeLayout*>(a_layout);
  const FakeLayout& x = *static_cast<FakeLayout*>(b_layout);
  const FakeLayout& y = *static_cast<FakeLayout*>(d_layout);
  if (*static_cast<const float*>(alpha) != 1.0f || *static_cast<const float*>(beta) != 0.0f) {
    return kInvalidValue;
  }
  const bool ascending = x.columns > 17 && (algorithm->data[0] == 1 || fault == kFakeRowsMatter);
  for (uint64_t t = 0; t < x.columns; ++t) {
    for (uint64_t n = 0; n < w.columns; ++n) {
      float sum = 0.0f;
      for (uint64_t i = 0; i < w.rows; ++i) {
        const uint64_t k = ascending ? i : w.rows - 1 - i;
        sum += ToFloat(static_cast<const Bf16*>(a)[n * w.leading + k]) *
               ToFloat(static_cast<const Bf16*>(b)[t * x.leading + k]);
      }
      static_cast<float*>(d)[t * y.leading + n] = fault == kFakeWrongValues ? sum * 1.01f : sum;
    }
  }
  return lt::kSuccess;
}

}  // extern "C"
