// The CPU backend: which instruction set, how many threads, and the scratch the operations share.
//
// Threads   the returned operations are called from one thread at a time; the team works inside a
// call.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "kernels/weight_codes.h"

namespace tandem::kernels {

// Instruction-set levels, each containing the ones before it. kRef is the plain loops.
enum class CpuIsa { kRef = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3 };

std::string_view CpuIsaName(CpuIsa isa);  // "ref", "avx2", "avx512", "avx512bf16"
absl::StatusOr<CpuIsa> ParseCpuIsa(std::string_view name);

// The best level that this machine can run.
CpuIsa BestCpuIsa();

struct CpuConfig {
  int threads = 0;            // 0: one per CPU of the inherited affinity mask and cgroup quota
  CpuIsa isa = BestCpuIsa();  // a level above the machine's is an error
  bool bf16_operands =
      true;  // false (--dtype f32): activations enter products as f32 at every level
};

struct CpuBackend;  // thread team and scratch

struct CpuBackendDeleter {
  void operator()(CpuBackend* backend) const;
};
using CpuBackendPtr = std::unique_ptr<CpuBackend, CpuBackendDeleter>;

absl::StatusOr<CpuBackendPtr> MakeCpuBackend(const CpuConfig& config);
const Ops& CpuOps(const CpuBackend& backend);
int CpuThreads(const CpuBackend& backend);

// Ops::pack_rows: packs a row-major [out, in] bf16 matrix (any alignment) into rows [row_begin,
// row_begin + out) of a packed matrix with `in` inputs (types.h). `row_begin` may be any row.
// Padding is left untouched: hand in zeroed memory. Runs on the backend's team.
void PackRows(CpuBackend& backend, const std::byte* rows, int out, int in, int row_begin,
              Bf16* packed);

// Ops::pack_gate_up: the same for the interleaved gate/up layout of LinearGegluArgs: gate row i
// lands in tile 2*(i/16), up row i in tile 2*(i/16) + 1.
void PackGateUp(CpuBackend& backend, const std::byte* gate, const std::byte* up, int width, int in,
                Bf16* packed);

// PackRows and PackGateUp for weights of codes: quantised (weight_codes.h) into a matrix in the
// layout of code_layout.h. False: a value that the format can not hold; the matrix is then
// undefined.
bool PackCodeRows(CpuBackend& backend, const std::byte* rows, int out, int in, int row_begin,
                  const CodeTarget& target);
bool PackCodeGateUp(CpuBackend& backend, const std::byte* gate, const std::byte* up, int width,
                    int in, const CodeTarget& target);

// Runs fn(thread, threads) on every thread of the team and waits; for loading and for filling.
void RunOnTeam(CpuBackend& backend, void (*fn)(void* context, int thread, int threads),
               void* context);

}  // namespace tandem::kernels
