// The CUDA backend itself: what it holds on the device, and what its files share.
//
// In        cuda_backend.cu memory, staged rows and recorded runs; backend_ops.cu the operations.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/check_shape.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/host_ring.h"
#include "kernels/cuda/kv_store.h"
#include "kernels/cuda/prompt_gemm.h"
#include "kernels/cuda/staged_rows.h"
#include "kernels/cuda/write_weights.h"

namespace tandem::kernels::K_WORLD {

constexpr int kMostHeadDim = 512;
constexpr int kMostMTiles = 2;

class Backend : public DeviceBackend {
 public:
  Backend(Device device, DeviceStream stream, HostRing ring, CpuBackend& host,
          const DeviceBackendConfig& config);

  const Ops& ops() const override { return ops_; }
  const DeviceInfo& info() const override { return device_.info(); }
  absl::StatusOr<size_t> FreeBytes() const override { return device_.FreeBytes(); }
  absl::Status CheckShape(const ShapeNeed& need) const override {
    return K_WORLD::CheckShape(need, ops_.name);
  }
  size_t OwnBytes(const DeviceLoad& load) const override;

  std::string PreparePrompts(const std::vector<PromptProduct>& products, int max_rows,
                             const std::vector<std::string>& libraries) override;

  absl::StatusOr<Memory> Allocate(size_t bytes);
  WeightWriter Writer() { return {&ring_, &stream_, &host_ops()}; }
  bool Packed(const absl::StatusOr<bool>& written);
  void Write(void* to, const void* host, size_t bytes);
  void* Fetch(void* from, size_t bytes);
  void Copy(void* to, const void* from, size_t bytes);
  void Gather(const GatherArgs& args);
  const void* AsOperands(const float* x, void* space, int64_t count);
  StagedRows Stage(const RowsArgs& args);
  bool BeginRun(uint64_t program);
  void EndRun();
  void Collect();
  absl::Status status() const { return status_; }

  void Embed(const kernels::EmbedArgs& args);
  void Ple(const kernels::PleArgs& args);
  void Linear(const LinearArgs& args);
  void LinearClusters(const LinearClustersArgs& args);
  void LinearGeglu(const LinearGegluArgs& args);
  void QkvPost(const kernels::QkvPostArgs& args);
  void Attention(const AttentionArgs& args);
  void Route(const kernels::RouteArgs& args);
  void Experts(const kernels::ExpertsArgs& args);
  void Pick(const kernels::PickArgs& args);

  // Keeps the first error; afterwards nothing is asked of the device.
  bool Note(const absl::Status& status) {
    if (status_.ok()) status_ = status;
    return status_.ok();
  }
  Stream stream() const { return stream_.get(); }
  const Ops& host_ops() const { return CpuOps(host_); }

 private:
  void FillKernelOps();
  // Device memory that grows to the largest request ever made.
  std::byte* Grown(DeviceMemory& memory, size_t bytes, const char* what);
  PromptScratch Scratch(int in);
  std::byte* Fetched(size_t bytes);
  void Wait();
  void StagePle(const RowsArgs& args);
  static WLinearArgs BfArgs(const LinearArgs& args);

  Device device_;
  DeviceStream stream_;
  HostRing ring_;
  CpuBackend& host_;
  Ops ops_;
  absl::Status status_;
  std::thread::id thread_ = std::this_thread::get_id();  // that the device was used on last
  AttentionLimits limits_;
  RowStage stage_;
  PromptGemm prompt_gemm_;
  PinnedMemory fetched_;
  std::vector<std::byte> no_fetch_;  // in its place where it can not be had
  DeviceMemory picks_, pick_workspace_, partials_, ple_rows_, index_, experts_, prompt_scratch_;
  // What storing rows found since the last `collect`, by class of rows: prompt and generated.
  struct Found {
    uint8_t* caller = nullptr;
    size_t rows = 0;
    DeviceMemory flags;  // int32 [padded rows]
  };
  std::array<Found, 2> found_;
  DeviceMemory counts_;  // KvRowCounts [groups]
  // A run is called, then recorded, then launched. Whatever moves in memory makes all of them void.
  struct RunKey {
    uint64_t program = 0;
    int rows = 0;
    struct Group {
      int m_tiles = 0;
      bool super_chunks = false;
      int waves = 0;
      int64_t stride = 0;
      auto operator<=>(const Group&) const = default;
    };
    std::array<Group, kNumStagedGroups> groups;
    auto operator<=>(const RunKey&) const = default;
  };
  std::map<RunKey, std::optional<Graph>> runs_;  // empty: called once
  RunKey run_;
  bool recording_ = false;
  int generation_ = 0;  // of places in device memory
  std::array<KvEncodeCounts*, kNumStagedGroups> told_counts_ = {};
};

inline Backend& BackendOf(void* backend) { return *static_cast<Backend*>(backend); }

}  // namespace tandem::kernels::K_WORLD
