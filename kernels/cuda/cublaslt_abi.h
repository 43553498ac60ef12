// The part of cuBLASLt's binary interface that cublaslt.cc calls, declared here so that it builds
// where the toolkit is not installed. prompt_gemm.cu compares it with cublasLt.h where that is.
//
// Source    cublasLt.h, cublas_api.h and library_types.h of CUDA 13.0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/cublaslt.h"

namespace tandem::kernels::lt {

constexpr int kMajorVersion = 13;  // of 10000 * major + 100 * minor + patch
constexpr const char* kFileName = "libcublasLt.so.13";

// cublasStatus_t, cublasComputeType_t, cudaDataType_t and the attributes are enumerations: ints.
constexpr int kSuccess = 0;
constexpr int kComputeF32 = 68;
constexpr int kTypeF32 = 0;
constexpr int kTypeBf16 = 14;
constexpr int32_t kTransposed = 1;
constexpr uint32_t kNoReduction = 0;

constexpr int kDescTransA = 3;            // int32_t
constexpr int kLayoutRows = 2;            // uint64_t
constexpr int kLayoutColumns = 3;         // uint64_t
constexpr int kLayoutLeading = 4;         // int64_t
constexpr int kPreferWorkspaceBytes = 1;  // uint64_t
constexpr int kPreferReductions = 3;      // uint32_t, a mask
constexpr int kPreferAlignmentA = 5;      // uint32_t; B, C and D behind it

struct HeuristicResult {
  LtAlgorithm algorithm;
  size_t workspace_bytes;
  int status;
  float waves;
  int reserved[4];
};

// Handles and descriptors are pointers to what only the library knows.
using Handle = void*;
using Desc = void*;
using Layout = void*;
using Preference = void*;

// Named after the functions without their prefix "cublasLt".
struct Functions {
  size_t (*GetVersion)() = nullptr;
  int (*Create)(Handle*) = nullptr;
  int (*Destroy)(Handle) = nullptr;
  int (*MatmulDescCreate)(Desc*, int compute_type, int scale_type) = nullptr;
  int (*MatmulDescDestroy)(Desc) = nullptr;
  int (*MatmulDescSetAttribute)(Desc, int attribute, const void*, size_t) = nullptr;
  int (*MatrixLayoutCreate)(Layout*, int type, uint64_t rows, uint64_t columns,
                            int64_t leading) = nullptr;
  int (*MatrixLayoutDestroy)(Layout) = nullptr;
  int (*MatrixLayoutSetAttribute)(Layout, int attribute, const void*, size_t) = nullptr;
  int (*MatmulPreferenceCreate)(Preference*) = nullptr;
  int (*MatmulPreferenceDestroy)(Preference) = nullptr;
  int (*MatmulPreferenceSetAttribute)(Preference, int attribute, const void*, size_t) = nullptr;
  int (*MatmulAlgoGetHeuristic)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, Preference,
                                int requested, HeuristicResult*, int* returned) = nullptr;
  int (*MatmulAlgoCheck)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, const LtAlgorithm*,
                         HeuristicResult*) = nullptr;
  int (*Matmul)(Handle, Desc, const void* alpha, const void* a, Layout, const void* b, Layout,
                const void* beta, const void* c, Layout, void* d, Layout, const LtAlgorithm*,
                void* workspace, size_t workspace_bytes, void* stream) = nullptr;
};

}  // namespace tandem::kernels::lt
