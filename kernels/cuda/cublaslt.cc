#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>

#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/cublaslt_abi.h"

namespace tandem::kernels {
namespace {

constexpr int kMaxAlgorithms = 8;
constexpr uint32_t kAlignment = 16;  // bytes, of every matrix

template <typename Function>
bool Find(void* library, const char* name, Function** function) {
  *function = reinterpret_cast<Function*>(dlsym(library, name));
  return *function != nullptr;
}

// The name of a function that the library lacks; null when it has all.
const char* FindAll(void* library, lt::Functions* f) {
  const char* name = nullptr;
  const auto lacks = [&](auto** function, const char* symbol) {
    name = symbol;
    return !Find(library, symbol, function);
  };
  if (lacks(&f->GetVersion, "cublasLtGetVersion") || lacks(&f->Create, "cublasLtCreate") ||
      lacks(&f->Destroy, "cublasLtDestroy") ||
      lacks(&f->MatmulDescCreate, "cublasLtMatmulDescCreate") ||
      lacks(&f->MatmulDescDestroy, "cublasLtMatmulDescDestroy") ||
      lacks(&f->MatmulDescSetAttribute, "cublasLtMatmulDescSetAttribute") ||
      lacks(&f->MatrixLayoutCreate, "cublasLtMatrixLayoutCreate") ||
      lacks(&f->MatrixLayoutDestroy, "cublasLtMatrixLayoutDestroy") ||
      lacks(&f->MatrixLayoutSetAttribute, "cublasLtMatrixLayoutSetAttribute") ||
      lacks(&f->MatmulPreferenceCreate, "cublasLtMatmulPreferenceCreate") ||
      lacks(&f->MatmulPreferenceDestroy, "cublasLtMatmulPreferenceDestroy") ||
      lacks(&f->MatmulPreferenceSetAttribute, "cublasLtMatmulPreferenceSetAttribute") ||
      lacks(&f->MatmulAlgoGetHeuristic, "cublasLtMatmulAlgoGetHeuristic") ||
      lacks(&f->MatmulAlgoCheck, "cublasLtMatmulAlgoCheck") ||
      lacks(&f->Matmul, "cublasLtMatmul")) {
    return name;
  }
  return nullptr;
}

std::string VersionText(size_t version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

}  // namespace

// Of one caller: descriptors are filled in anew for every product.
struct CublasLt::State {
  lt::Functions f;
  std::string name;
  lt::Handle handle = nullptr;
  lt::Desc desc = nullptr;
  // The library counts by columns: w is [in, out] and used transposed, x [in, rows], y [out, rows].
  lt::Layout w = nullptr;
  lt::Layout x = nullptr;
  lt::Layout y = nullptr;
  lt::Preference preference = nullptr;

  int Describe(const LtProduct& p) {
    int status = Describe(w, p.in, p.out, p.in);
    if (status == lt::kSuccess) status = Describe(x, p.in, p.rows, p.x_stride);
    if (status == lt::kSuccess) status = Describe(y, p.out, p.rows, p.y_stride);
    return status;
  }

 private:
  int Describe(lt::Layout layout, int rows, int columns, int64_t leading) {
    const uint64_t wide_rows = static_cast<uint64_t>(rows);
    const uint64_t wide_columns = static_cast<uint64_t>(columns);
    int status = f.MatrixLayoutSetAttribute(layout, lt::kLayoutRows, &wide_rows, sizeof(wide_rows));
    if (status == lt::kSuccess) {
      status = f.MatrixLayoutSetAttribute(layout, lt::kLayoutColumns, &wide_columns,
                                          sizeof(wide_columns));
    }
    if (status == lt::kSuccess) {
      status = f.MatrixLayoutSetAttribute(layout, lt::kLayoutLeading, &leading, sizeof(leading));
    }
    return status;
  }
};

void CublasLt::Destroy::operator()(State* state) const {
  // The library itself stays: it may have threads and caches of its own.
  if (state->preference != nullptr) state->f.MatmulPreferenceDestroy(state->preference);
  for (lt::Layout layout : {state->w, state->x, state->y}) {
    if (layout != nullptr) state->f.MatrixLayoutDestroy(layout);
  }
  if (state->desc != nullptr) state->f.MatmulDescDestroy(state->desc);
  if (state->handle != nullptr) state->f.Destroy(state->handle);
  delete state;
}

std::vector<std::string> CublasLtPaths(const CudaLibraryDirs& dirs) {
  std::vector<std::string> paths;
  if (!dirs.own.empty()) paths.push_back(absl::StrCat(dirs.own, "/", lt::kFileName));
  paths.push_back(lt::kFileName);
  if (!dirs.cuda_home.empty()) {
    paths.push_back(absl::StrCat(dirs.cuda_home, "/lib64/", lt::kFileName));
  }
  paths.push_back(absl::StrCat("/usr/local/cuda/lib64/", lt::kFileName));
  if (!dirs.python_prefix.empty()) {
    for (const char* folder : {"/nvidia/cu13/lib/", "/nvidia/cublas/lib/"}) {
      paths.push_back(absl::StrCat(dirs.python_prefix, folder, lt::kFileName));
    }
  }
  return paths;
}

absl::StatusOr<CublasLt> CublasLt::Load(const std::vector<std::string>& paths) {
  void* library = nullptr;
  std::string cause = "not found";
  for (const std::string& path : paths) {
    library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) break;
    const char* error = dlerror();
    // A library that is there and broken is worth more words than one that is not.
    if (error != nullptr && !absl::StrContains(error, "No such file")) cause = error;
  }
  if (library == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(lt::kFileName, ": ", cause, "; TANDEM_CUDA_LIB_DIR may name its folder"));
  }
  std::unique_ptr<State, Destroy> state(new State);
  lt::Functions& f = state->f;
  if (const char* missing = FindAll(library, &f); missing != nullptr) {
    dlclose(library);
    return absl::UnimplementedError(absl::StrCat(lt::kFileName, " has no ", missing));
  }
  const size_t version = f.GetVersion();
  state->name = absl::StrCat("cuBLASLt ", VersionText(version));
  if (version / 10000 != lt::kMajorVersion) {
    return absl::UnimplementedError(
        absl::StrCat(state->name, " is of another major version than ", lt::kMajorVersion));
  }
  const auto refused = [&](const char* what, int status) {
    return absl::UnavailableError(
        absl::StrCat(state->name, " does not start: ", what, " gave status ", status));
  };
  if (const int status = f.Create(&state->handle); status != lt::kSuccess) {
    state->handle = nullptr;
    return refused("cublasLtCreate", status);
  }
  int status = f.MatmulDescCreate(&state->desc, lt::kComputeF32, lt::kTypeF32);
  if (status == lt::kSuccess) {
    status = f.MatmulDescSetAttribute(state->desc, lt::kDescTransA, &lt::kTransposed,
                                      sizeof(lt::kTransposed));
  }
  if (status == lt::kSuccess) {
    status = f.MatrixLayoutCreate(&state->w, lt::kTypeBf16, 8, 8, 8);
  }
  if (status == lt::kSuccess) {
    status = f.MatrixLayoutCreate(&state->x, lt::kTypeBf16, 8, 8, 8);
  }
  if (status == lt::kSuccess) status = f.MatrixLayoutCreate(&state->y, lt::kTypeF32, 8, 8, 8);
  if (status == lt::kSuccess) status = f.MatmulPreferenceCreate(&state->preference);
  if (status == lt::kSuccess) {
    status = f.MatmulPreferenceSetAttribute(state->preference, lt::kPreferReductions,
                                            &lt::kNoReduction, sizeof(lt::kNoReduction));
  }
  for (int matrix = 0; matrix < 4 && status == lt::kSuccess; ++matrix) {
    status = f.MatmulPreferenceSetAttribute(state->preference, lt::kPreferAlignmentA + matrix,
                                            &kAlignment, sizeof(kAlignment));
  }
  if (status != lt::kSuccess) return refused("a descriptor", status);
  return CublasLt(std::move(state));
}

const std::string& CublasLt::name() const { return state_->name; }

absl::StatusOr<std::vector<LtAlgorithm>> CublasLt::Algorithms(const LtProduct& product,
                                                              size_t workspace_bytes) {
  State& s = *state_;
  const uint64_t bytes = workspace_bytes;
  int status = s.Describe(product);
  if (status == lt::kSuccess) {
    status = s.f.MatmulPreferenceSetAttribute(s.preference, lt::kPreferWorkspaceBytes, &bytes,
                                              sizeof(bytes));
  }
  lt::HeuristicResult results[kMaxAlgorithms] = {};
  int found = 0;
  if (status == lt::kSuccess) {
    status = s.f.MatmulAlgoGetHeuristic(s.handle, s.desc, s.w, s.x, s.y, s.y, s.preference,
                                        kMaxAlgorithms, results, &found);
  }
  std::vector<LtAlgorithm> algorithms;
  for (int i = 0; i < found && i < kMaxAlgorithms && status == lt::kSuccess; ++i) {
    if (results[i].status == lt::kSuccess) algorithms.push_back(results[i].algorithm);
  }
  if (algorithms.empty()) {
    return absl::NotFoundError(absl::StrCat(s.name, " has no algorithm for ", product.out, "x",
                                            product.in, " (status ", status, ")"));
  }
  return algorithms;
}

bool CublasLt::Can(const LtAlgorithm& algorithm, const LtProduct& product, size_t workspace_bytes) {
  State& s = *state_;
  lt::HeuristicResult result = {};
  return s.Describe(product) == lt::kSuccess &&
         s.f.MatmulAlgoCheck(s.handle, s.desc, s.w, s.x, s.y, s.y, &algorithm, &result) ==
             lt::kSuccess &&
         result.workspace_bytes <= workspace_bytes;
}

absl::Status CublasLt::Multiply(const LtProduct& product, const LtAlgorithm& algorithm,
                                const LtWorkspace& workspace, void* stream) {
  State& s = *state_;
  const float one = 1.0f, zero = 0.0f;
  int status = s.Describe(product);
  if (status == lt::kSuccess) {
    status = s.f.Matmul(s.handle, s.desc, &one, product.w, s.w, product.x, s.x, &zero, product.y,
                        s.y, product.y, s.y, &algorithm, workspace.data, workspace.bytes, stream);
  }
  if (status == lt::kSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(s.name, " refused ", product.rows, " rows of ",
                                          product.out, "x", product.in, " with status ", status));
}

}  // namespace tandem::kernels
