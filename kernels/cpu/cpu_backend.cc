#include "kernels/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <cstdlib>
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
