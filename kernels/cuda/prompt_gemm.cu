#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cublaslt_abi.h"
#include "kernels/cuda/geglu_rows.h"
#include "kernels/cuda/prompt_gemm.h"
#include "kernels/cuda/w_linear_pack.h"

#if defined(__CUDACC__) && __has_include(<cublasLt.h>)
#include <cublasLt.h>
#endif

namespace tandem::kernels::K_WORLD {
namespace {

// How many rows are multiplied by themselves, and then one by one.
constexpr int kFewRows = 17;
// What the library's values may differ from the own kernel's by, relative Frobenius: both multiply
// exactly and add in f32.
constexpr double kTolerance = 1e-4;
// Random operands come from a block that is laid down again and again, of a length that no row
// divides.
constexpr size_t kRandomBytes = (size_t{1} << 20) + 16;

// Memory in which algorithms are tried.
struct Trial {
  DeviceStream* stream;
  int max_rows;
  DeviceMemory w;     // [out, in] of the largest matrix
  DeviceMemory x;     // [max_rows, in] of the widest one
  DeviceMemory y;     // [max_rows, out]
  PinnedMemory host;  // [kFewRows, out], or random values
};

// Numbers in [-1, 1) of a linear congruential generator.
void FillRandom(bf16* values, size_t count) {
  uint32_t state = 1;
  for (size_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    values[i] = ToBf16(static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f);
  }
}

absl::StatusOr<Trial> PrepareTrial(const PromptGemmOptions& options, const Device& device,
                                   DeviceStream* stream) {
  constexpr std::string_view kWhat = "the test of cuBLASLt";
  size_t in = 0, out = 0, weights = 0;
  for (const PromptMatrix& m : options.matrices) {
    in = std::max(in, static_cast<size_t>(m.in));
    out = std::max(out, static_cast<size_t>(m.out));
    weights = std::max(weights, static_cast<size_t>(m.in) * static_cast<size_t>(m.out));
  }
  const size_t rows = static_cast<size_t>(options.max_rows);
  auto w = device.Allocate(weights * sizeof(bf16), kWhat);
  if (!w.ok()) return w.status();
  auto x = device.Allocate(rows * in * sizeof(bf16), kWhat);
  if (!x.ok()) return x.status();
  auto y = device.Allocate(rows * out * sizeof(float), kWhat);
  if (!y.ok()) return y.status();
  auto host = device.AllocatePinned(std::max(kFewRows * out * sizeof(float), kRandomBytes), kWhat);
  if (!host.ok()) return host.status();

  FillRandom(reinterpret_cast<bf16*>(host->data()), kRandomBytes / sizeof(bf16));
  for (const DeviceMemory* memory : {&*w, &*x}) {
    for (size_t done = 0; done < memory->size(); done += kRandomBytes) {
      const size_t bytes = std::min(kRandomBytes, memory->size() - done);
      const absl::Status copied = stream->CopyToDevice(memory->data() + done, host->data(), bytes);
      if (!copied.ok()) return copied;
    }
  }
  const absl::Status filled = stream->Synchronize();
  if (!filled.ok()) return filled;
  return Trial{stream,        options.max_rows, *std::move(w),
               *std::move(x), *std::move(y),    *std::move(host)};
}

WLinearArgs RowsOf(const Trial& trial, const PromptMatrix& m, int first, int rows) {
  return {.x = reinterpret_cast<const bf16*>(trial.x.data()) + int64_t{first} * m.in,
          .x_stride = m.in,
          .w = reinterpret_cast<const bf16*>(trial.w.data()),
          .y_f32 = reinterpret_cast<float*>(trial.y.data()),
          .y_stride = m.out,
          .rows = rows,
          .in = m.in,
          .out = m.out};
}

LtProduct ProductOf(const WLinearArgs& args) {
  return {.x = args.x,
          .x_stride = args.x_stride,
          .w = args.w,
          .y = args.y_f32,
          .y_stride = args.y_stride,
          .rows = args.rows,
          .in = args.in,
          .out = args.out};
}

// Rows [from, from + rows) of the results that `multiply` makes; what it leaves out is NaN.
template <typename Multiply>
absl::StatusOr<std::vector<float>> Results(Trial& trial, const WLinearArgs& args, int from,
                                           int rows, Multiply multiply) {
  const size_t row_bytes = static_cast<size_t>(args.out) * sizeof(float);
  absl::Status status = trial.stream->Fill(trial.y.data(), 0xff, args.rows * row_bytes);
  if (status.ok()) status.Update(multiply(args));
  if (status.ok()) {
    status.Update(trial.stream->CopyToHost(trial.host.data(), trial.y.data() + from * row_bytes,
                                           rows * row_bytes));
  }
  if (status.ok()) status.Update(trial.stream->Synchronize());
  if (!status.ok()) return status;
  std::vector<float> results(static_cast<size_t>(rows) * args.out);
  std::memcpy(results.data(), trial.host.data(), rows * row_bytes);
  return results;
}

bool SameBits(const float* a, const float* b, size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

// Whether the first and the last rows, multiplied few at a time and one by one, have the bits that
// they have among all, and nearly the values of the own kernel. OK, or why not.
template <typename Multiply>
absl::Status KeepsThePromises(Trial& trial, const PromptMatrix& m, Multiply multiply) {
  const int few = std::min(kFewRows, trial.max_rows);
  for (const int first : {0, trial.max_rows - few}) {
    auto all = Results(trial, RowsOf(trial, m, 0, trial.max_rows), first, few, multiply);
    if (!all.ok()) return all.status();
    auto alone = Results(trial, RowsOf(trial, m, first, few), 0, few, multiply);
    if (!alone.ok()) return alone.status();
    if (!SameBits(all->data(), alone->data(), all->size())) {
      return absl::FailedPreconditionError("a row's bits depend on the number of rows");
    }
    for (const int row : {0, few - 1}) {
      auto one = Results(trial, RowsOf(trial, m, first + row, 1), 0, 1, multiply);
      if (!one.ok()) return one.status();
      if (!SameBits(one->data(), all->data() + int64_t{row} * m.out, one->size())) {
        return absl::FailedPreconditionError("a row's bits depend on the number of rows");
      }
    }
    auto own = Results(trial, RowsOf(trial, m, first, few), 0, few, [&](const WLinearArgs& args) {
      PLinear(args, trial.stream->get());
      return trial.stream->CheckLaunches("PLinear");
    });
    if (!own.ok()) return own.status();
    double difference = 0.0, norm = 0.0;
    for (size_t i = 0; i < own->size(); ++i) {
      const double d = double{(*all)[i]} - double{(*own)[i]};
      difference += d * d;
      norm += double{(*own)[i]} * double{(*own)[i]};
    }
    if (!(std::sqrt(difference) <= kTolerance * std::sqrt(norm))) {
      return absl::FailedPreconditionError("its values are not those of the own kernel");
    }
  }
  return absl::OkStatus();
}

// OK, or why an algorithm is not used.
absl::Status TryAlgorithm(CublasLt& library, const LtAlgorithm& algorithm,
                          const LtWorkspace& workspace, Trial& trial, const PromptMatrix& m) {
  LtProduct product = ProductOf(RowsOf(trial, m, 0, trial.max_rows));
  for (product.rows = 1; product.rows <= trial.max_rows; ++product.rows) {
    if (!library.Can(algorithm, product, workspace.bytes)) {
      return absl::FailedPreconditionError("not every number of rows can be multiplied");
    }
  }
  return KeepsThePromises(trial, m, [&](const WLinearArgs& args) {
    return library.Multiply(ProductOf(args), algorithm, workspace, trial.stream->get());
  });
}

// The fastest algorithm that can do every number of rows and keeps the promises.
absl::StatusOr<LtAlgorithm> ChooseAlgorithm(CublasLt& library, const LtWorkspace& workspace,
                                            Trial& trial, const PromptMatrix& m) {
  auto algorithms =
      library.Algorithms(ProductOf(RowsOf(trial, m, 0, trial.max_rows)), workspace.bytes);
  if (!algorithms.ok()) return algorithms.status();
  std::string why;  // of the last one
  for (const LtAlgorithm& algorithm : *algorithms) {
    const absl::Status tried = TryAlgorithm(library, algorithm, workspace, trial, m);
    if (tried.ok()) return algorithm;
    why = std::string(tried.message());
  }
  return absl::FailedPreconditionError(why);
}

}  // namespace

PromptGemm PromptGemm::Open(const PromptGemmOptions& options, const Device& device,
                            DeviceStream* stream) {
  const auto own_kernels = [](const absl::Status& why) {
    PromptGemm own;
    own.description_ = absl::StrCat("own kernels; ", why.message());
    return own;
  };
  if (options.libraries.empty() || options.matrices.empty() || options.max_rows == 0) return {};
  auto library = CublasLt::Load(options.libraries);
  if (!library.ok()) return own_kernels(library.status());
  int gate_up = 0;  // the most outputs
  for (const PromptMatrix& m : options.matrices) {
    if (m.geglu) gate_up = std::max(gate_up, m.out);
  }
  const size_t row_bytes = static_cast<size_t>(gate_up) * sizeof(float);
  auto values = device.Allocate(
      std::min(static_cast<size_t>(options.max_rows) * row_bytes, options.geglu_bytes),
      "gate and up values");
  if (!values.ok()) return own_kernels(values.status());
  auto workspace = device.Allocate(options.workspace_bytes, "the workspace of cuBLASLt");
  if (!workspace.ok()) return own_kernels(workspace.status());
  auto trial = PrepareTrial(options, device, stream);
  if (!trial.ok()) return own_kernels(trial.status());

  PromptGemm gemm;
  gemm.library_ = *std::move(library);
  gemm.workspace_ = *std::move(workspace);
  gemm.gate_up_ = *std::move(values);
  std::vector<PromptMatrix> refused;
  std::string why;
  for (const PromptMatrix& m : options.matrices) {
    const bool known = std::any_of(refused.begin(), refused.end(), [&](const PromptMatrix& other) {
      return other.out == m.out && other.in == m.in;
    });
    if (known || gemm.PlanOf(m.out, m.in) != nullptr) continue;
    auto algorithm = ChooseAlgorithm(*gemm.library_,
                                     {gemm.workspace_.data(), gemm.workspace_.size()}, *trial, m);
    if (algorithm.ok()) {
      gemm.plans_.push_back({m.out, m.in, *algorithm});
    } else {
      absl::StrAppend(&why, refused.empty() ? "; own kernels for " : ", ", m.out, "x", m.in, " (",
                      algorithm.status().message(), ")");
      refused.push_back(m);
    }
  }
  gemm.description_ = absl::StrCat(gemm.library_->name(), " for ", gemm.plans_.size(), " of ",
                                   gemm.plans_.size() + refused.size(), " shapes", why);
  return gemm;
}

const PromptGemm::Plan* PromptGemm::PlanOf(int out, int in) const {
  for (const Plan& plan : plans_) {
    if (plan.out == out && plan.in == in) return &plan;
  }
  return nullptr;
}

absl::Status PromptGemm::Linear(const WLinearArgs& args, Stream stream) {
  const Plan* const plan = PlanOf(args.out, args.in);
  if (plan == nullptr || args.y_f32 == nullptr || args.rows == 0) {
    PLinear(args, stream);
    return absl::OkStatus();
  }
  return library_->Multiply(ProductOf(args), plan->algorithm,
                            {workspace_.data(), workspace_.size()}, stream);
}

absl::Status PromptGemm::Geglu(const WLinearGegluArgs& args, Stream stream) {
  const int out = GateUpRows(args.width);
  const Plan* const plan = PlanOf(out, args.in);
  const int64_t fit =
      static_cast<int64_t>(gate_up_.size() / (static_cast<size_t>(out) * sizeof(float)));
  if (plan == nullptr || fit == 0 || args.width % 8 != 0 || args.y_stride % 8 != 0) {
    PLinearGeglu(args, stream);
    return absl::OkStatus();
  }
  float* const gate_up = reinterpret_cast<float*>(gate_up_.data());
  for (int first = 0; first < args.rows;) {
    const int rows = static_cast<int>(std::min<int64_t>(fit, args.rows - first));
    const absl::Status multiplied =
        library_->Multiply({.x = args.x + first * args.x_stride,
                            .x_stride = args.x_stride,
                            .w = args.w,
                            .y = gate_up,
                            .y_stride = out,
                            .rows = rows,
                            .in = args.in,
                            .out = out},
                           plan->algorithm, {workspace_.data(), workspace_.size()}, stream);
    if (!multiplied.ok()) return multiplied;
    GegluRows({.gate_up = gate_up,
               .stride = out,
               .y = args.y + first * args.y_stride,
               .y_stride = args.y_stride,
               .rows = rows,
               .width = args.width},
              stream);
    first += rows;
  }
  return absl::OkStatus();
}

absl::Status PromptGemm::LinearCodes(const WLinearCodesArgs& args, const PromptScratch& scratch,
                                     Stream stream) {
  absl::Status status;
  ForExpandedPieces(args, scratch, stream, [&](const WLinearArgs& piece) {
    if (status.ok()) status.Update(Linear(piece, stream));
  });
  return status;
}

absl::Status PromptGemm::GegluCodes(const WLinearCodesGegluArgs& args, const PromptScratch& scratch,
                                    Stream stream) {
  absl::Status status;
  ForExpandedPieces(args, scratch, stream, [&](const WLinearGegluArgs& piece) {
    if (status.ok()) status.Update(Geglu(piece, stream));
  });
  return status;
}

#if defined(__CUDACC__) && __has_include(<cublasLt.h>)
// The own declarations against the toolkit's.
static_assert(CUBLAS_VER_MAJOR == lt::kMajorVersion);
static_assert(CUBLAS_STATUS_SUCCESS == lt::kSuccess && sizeof(cublasStatus_t) == sizeof(int));
static_assert(CUBLAS_COMPUTE_32F == lt::kComputeF32 && sizeof(cublasComputeType_t) == sizeof(int));
static_assert(CUDA_R_32F == lt::kTypeF32 && CUDA_R_16BF == lt::kTypeBf16 &&
              sizeof(cudaDataType_t) == sizeof(int));
static_assert(CUBLAS_OP_T == lt::kTransposed && sizeof(cublasOperation_t) == sizeof(int32_t));
static_assert(CUBLASLT_REDUCTION_SCHEME_NONE == lt::kNoReduction);
static_assert(CUBLASLT_MATMUL_DESC_TRANSA == lt::kDescTransA);
static_assert(CUBLASLT_MATRIX_LAYOUT_ROWS == lt::kLayoutRows);
static_assert(CUBLASLT_MATRIX_LAYOUT_COLS == lt::kLayoutColumns);
static_assert(CUBLASLT_MATRIX_LAYOUT_LD == lt::kLayoutLeading);
static_assert(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES == lt::kPreferWorkspaceBytes);
static_assert(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK == lt::kPreferReductions);
static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES == lt::kPreferAlignmentA);
static_assert(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES == lt::kPreferAlignmentA + 3);
static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(LtAlgorithm) &&
              alignof(cublasLtMatmulAlgo_t) == alignof(LtAlgorithm));
static_assert(sizeof(cublasLtMatmulHeuristicResult_t) == sizeof(lt::HeuristicResult) &&
              offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize) ==
                  offsetof(lt::HeuristicResult, workspace_bytes) &&
              offsetof(cublasLtMatmulHeuristicResult_t, state) ==
                  offsetof(lt::HeuristicResult, status));
static_assert(sizeof(cublasLtHandle_t) == sizeof(lt::Handle) &&
              sizeof(cublasLtMatmulDesc_t) == sizeof(lt::Desc) &&
              sizeof(cublasLtMatrixLayout_t) == sizeof(lt::Layout) &&
              sizeof(cublasLtMatmulPreference_t) == sizeof(lt::Preference));
#endif

}  // namespace tandem::kernels::K_WORLD
