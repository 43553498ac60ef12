#include "kernels/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/qkv_post.h"
#include "kernels/cpu/row_ops.h"

namespace tandem::kernels {
namespace {

constexpr int kMaxThreads = 1024;
constexpr size_t kHugePage = size_t{2} << 20;

void ForEachTask(void* backend, int count, void (*task)(void* context, int i), void* context) {
  BackendOf(backend).team.ForEach(count, 1, [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) task(context, static_cast<int>(i));
  });
}

// Ordinary memory is what operations work on: staging hands the caller's own arrays back.
StagedRows Stage(void*, const RowsArgs& args) {
  StagedRows staged = {.rows = static_cast<int>(args.ids.size()),
                       .ids = args.ids.data(),
                       .positions = args.positions.data(),
                       .nonfinite = args.nonfinite};
  for (int i = 0; i < kNumStagedGroups; ++i) {
    staged.cells[i] = args.groups[i].cells.data();
    staged.visible_begin[i] = args.groups[i].visible_begin.data();
    staged.visible_end[i] = args.groups[i].visible_end.data();
  }
  return staged;
}

void Gather(void*, const GatherArgs& args) {
  for (size_t i = 0; i < args.index.size(); ++i) {
    const size_t other = args.index[i];
    const std::byte* from =
        static_cast<const std::byte*>(args.from) + (args.scatter ? i : other) * args.from_bytes;
    std::byte* to = static_cast<std::byte*>(args.to) + (args.scatter ? other : i) * args.to_bytes;
    if (to != from) std::memcpy(to, from, args.row_bytes);
  }
}

void FillMemoryOps(Ops& ops) {
  ops.pack_rows = [](void* backend, const std::byte* rows, int out, int in, int row_begin,
                     Bf16* packed) {
    PackRows(BackendOf(backend), rows, out, in, row_begin, packed);
  };
  ops.pack_gate_up = [](void* backend, const std::byte* gate, const std::byte* up, int width,
                        int in, Bf16* packed) {
    PackGateUp(BackendOf(backend), gate, up, width, in, packed);
  };
  ops.pack_code_rows = [](void* backend, const std::byte* rows, int out, int in, int row_begin,
                          const CodeTarget& packed) {
    return PackCodeRows(BackendOf(backend), rows, out, in, row_begin, packed);
  };
  ops.pack_code_gate_up = [](void* backend, const std::byte* gate, const std::byte* up, int width,
                             int in, const CodeTarget& packed) {
    return PackCodeGateUp(BackendOf(backend), gate, up, width, in, packed);
  };
  ops.write = [](void*, void* to, const void* host, size_t bytes) { std::memcpy(to, host, bytes); };
  ops.fetch = [](void*, void* from, size_t) { return from; };
  ops.copy = [](void*, void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); };
  ops.gather = Gather;
  ops.as_operands = [](void*, const float* x, void*, int64_t) -> const void* { return x; };
  ops.stage = Stage;
  ops.begin_run = [](void*, uint64_t) { return true; };
  ops.end_run = [](void*) {};
  ops.collect = [](void*) {};
  ops.status = [](void*) { return absl::OkStatus(); };
}

}  // namespace

Scratch::~Scratch() { std::free(data_); }

std::byte* Scratch::Reserve(size_t bytes) {
  if (bytes <= size_) return data_;
  std::free(data_);
  const size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  size_ = (bytes + alignment - 1) / alignment * alignment;
  data_ = static_cast<std::byte*>(std::aligned_alloc(alignment, size_));
  if (data_ == nullptr) {
    size_ = 0;
    throw std::bad_alloc();
  }
  if (alignment == kHugePage) (void)madvise(data_, size_, MADV_HUGEPAGE);  // speed only
  return data_;
}

void CpuBackendDeleter::operator()(CpuBackend* backend) const { delete backend; }

absl::StatusOr<CpuBackendPtr> MakeCpuBackend(const CpuConfig& config) {
  if (config.threads < 0 || config.threads > kMaxThreads) {
    return absl::InvalidArgumentError(absl::StrCat("threads is ", config.threads, "; use 0 to ",
                                                   kMaxThreads, ", where 0 means one per CPU"));
  }
  if (config.isa > BestCpuIsa()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "CPU instruction set is ", std::string(CpuIsaName(config.isa)), " but this machine offers ",
        std::string(CpuIsaName(BestCpuIsa())), "; ask for that or a lower one"));
  }
  const std::vector<int> cpus = AffinityCpus();
  const int threads = config.threads > 0
                          ? config.threads
                          : DefaultThreads(static_cast<int>(cpus.size()), CgroupCpuLimit());

  CpuBackendPtr backend(new CpuBackend(threads, cpus));
  backend->isa = config.isa;
  backend->bf16_operands = config.bf16_operands;
  backend->ops.backend = backend.get();
  backend->ops.name = absl::StrCat("cpu ", std::string(CpuIsaName(config.isa)), ", ", threads,
                                   threads == 1 ? " thread" : " threads");
  backend->ops.for_each = ForEachTask;
  FillMemoryOps(backend->ops);
  FillLinearOps(config.isa, backend->ops);
  FillRowOps(config.isa, backend->ops);
  FillAttentionOps(config.isa, backend->ops);
  FillQkvPostOps(config.isa, backend->ops);
  return backend;
}

const Ops& CpuOps(const CpuBackend& backend) { return backend.ops; }

int CpuThreads(const CpuBackend& backend) { return backend.team.threads(); }

void RunOnTeam(CpuBackend& backend, void (*fn)(void* context, int thread, int threads),
               void* context) {
  backend.team.Run(fn, context);
}

}  // namespace tandem::kernels
