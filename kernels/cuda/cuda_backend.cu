// The CUDA backend's memory, staged rows and recorded runs.
//
// What the device says of a call is kept and told by `status`.
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/check_shape.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/host_ring.h"
#include "kernels/cuda/move_rows.h"
#include "kernels/cuda/prompt_gemm.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/staged_rows.h"
#include "kernels/cuda/write_weights.h"
#if !defined(__CUDACC__)
#include "kernels/cuda/emulated_backend.h"
#endif

namespace tandem::kernels::K_WORLD {
namespace {

constexpr size_t kRingBytes = size_t{32} << 20;  // of a half
constexpr size_t kPromptScratchBytes = size_t{64} << 20;

bf16* Operands(void* p) { return static_cast<bf16*>(p); }

// Frees what DeviceMemory owns, when the engine lets it go.
void ReleaseOwned(void* owned, std::byte*, size_t) { delete static_cast<DeviceMemory*>(owned); }

}  // namespace

Backend::Backend(Device device, DeviceStream stream, HostRing ring, CpuBackend& host,
                 const DeviceBackendConfig& config)
    : device_(std::move(device)), stream_(std::move(stream)), ring_(std::move(ring)), host_(host) {
  const DeviceInfo& info = device_.info();
  const size_t slot_bytes = AttentionWorkspaceBytes(1, kMostMTiles, kMostHeadDim);
  limits_.max_slots = static_cast<int64_t>(config.attention_bytes / slot_bytes);
  limits_.multiprocessors = info.multiprocessors;
  for (int m_tiles = 1; m_tiles <= kMostMTiles; ++m_tiles) {
    for (const int head_dim : {256, 512}) {
      for (int k = 0; k < kNumKvFormats; ++k) {
        for (int v = 0; v < kNumKvFormats; ++v) {
          const AttentionShape shape = {head_dim, static_cast<KvFormat>(k),
                                        static_cast<KvFormat>(v)};
          if (!AttentionSupports(shape)) continue;
          if (!AllowAttention(shape, {m_tiles, false})) {
            Note(absl::UnimplementedError(
                absl::StrCat("device ", info.index, " (", info.name,
                             "): a block has too little shared memory for attention")));
          }
          if (!AllowAttention(shape, {m_tiles, true})) limits_.super_chunks[m_tiles - 1] = false;
        }
      }
    }
  }

  ops_.backend = this;
  ops_.name = absl::StrCat("cuda:", info.index, " ", info.name);
  ops_.memory = {[](void* backend, size_t bytes) { return BackendOf(backend).Allocate(bytes); },
                 this};
  ops_.host_memory = false;
  ops_.operand_bytes = sizeof(bf16);
  ops_.prompt_rows_apart = true;
  ops_.supports = [](const AttentionShape& shape) { return AttentionSupports(shape); };
  ops_.pack_rows = [](void* b, const std::byte* rows, int out, int in, int row_begin,
                      Bf16* packed) {
    BackendOf(b).Note(WriteRows(BackendOf(b).Writer(), rows, out, in, row_begin, packed));
  };
  ops_.pack_gate_up = [](void* b, const std::byte* gate, const std::byte* up, int width, int in,
                         Bf16* packed) {
    BackendOf(b).Note(WriteGateUp(BackendOf(b).Writer(), gate, up, width, in, packed));
  };
  ops_.pack_code_rows = [](void* b, const std::byte* rows, int out, int in, int row_begin,
                           const CodeTarget& packed) {
    return BackendOf(b).Packed(
        WriteCodeRows(BackendOf(b).Writer(), rows, out, in, row_begin, packed));
  };
  ops_.pack_code_gate_up = [](void* b, const std::byte* gate, const std::byte* up, int width,
                              int in, const CodeTarget& packed) {
    return BackendOf(b).Packed(WriteCodeGateUp(BackendOf(b).Writer(), gate, up, width, in, packed));
  };
  ops_.write = [](void* b, void* to, const void* host_data, size_t bytes) {
    BackendOf(b).Write(to, host_data, bytes);
  };
  ops_.fetch = [](void* b, void* from, size_t bytes) { return BackendOf(b).Fetch(from, bytes); };
  ops_.copy = [](void* b, void* to, const void* from, size_t bytes) {
    BackendOf(b).Copy(to, from, bytes);
  };
  ops_.gather = [](void* b, const GatherArgs& args) { BackendOf(b).Gather(args); };
  ops_.as_operands = [](void* b, const float* x, void* space, int64_t count) {
    return BackendOf(b).AsOperands(x, space, count);
  };
  ops_.stage = [](void* b, const RowsArgs& args) { return BackendOf(b).Stage(args); };
  ops_.begin_run = [](void* b, uint64_t program) { return BackendOf(b).BeginRun(program); };
  ops_.end_run = [](void* b) { BackendOf(b).EndRun(); };
  ops_.collect = [](void* b) { BackendOf(b).Collect(); };
  ops_.status = [](void* b) { return BackendOf(b).status(); };
  ops_.for_each = [](void* b, int count, void (*task)(void* context, int i), void* context) {
    const Ops& host_ops = BackendOf(b).host_ops();
    host_ops.for_each(host_ops.backend, count, task, context);
  };
  FillKernelOps();
}

size_t Backend::OwnBytes(const DeviceLoad& load) const {
  size_t bytes = AttentionWorkspaceBytes(limits_.max_slots, kMostMTiles, kMostHeadDim);
  bytes += static_cast<size_t>(load.max_step_rows) * load.ple_row_values * sizeof(bf16);
  bytes += PromptGemmOptions().workspace_bytes + PromptGemmOptions().geglu_bytes;
  if (load.weight_codes) bytes += kPromptScratchBytes;
  if (load.experts > 0) {
    bytes += ExpertsWorkspaceBytes(load.max_step_rows, load.hidden, load.expert_width, load.experts,
                                   load.experts_per_token);
  }
  return bytes;
}

std::string Backend::PreparePrompts(const std::vector<PromptProduct>& products, int max_rows,
                                    const std::vector<std::string>& libraries) {
  PromptGemmOptions options = {.libraries = libraries, .max_rows = max_rows};
  for (const PromptProduct& product : products) {
    options.matrices.push_back({product.out, product.in, product.geglu});
  }
  prompt_gemm_ = PromptGemm::Open(options, device_, &stream_);
  return prompt_gemm_.description();
}

absl::StatusOr<Memory> Backend::Allocate(size_t bytes) {
  if (bytes == 0) return Memory();
  absl::StatusOr<DeviceMemory> memory = device_.Allocate(bytes, "the model");
  if (!memory.ok()) return memory.status();
  auto* const owned = new DeviceMemory(*std::move(memory));
  Memory result(owned->data(), owned->size(), ReleaseOwned, owned);
  if (absl::Status s = stream_.Fill(result.data(), 0, bytes); !s.ok()) return s;
  return result;
}

std::byte* Backend::Grown(DeviceMemory& memory, size_t bytes, const char* what) {
  if (bytes <= memory.size()) return memory.data();
  if (!Note(stream_.Synchronize())) return nullptr;
  memory = {};
  runs_.clear();  // they know the old place
  absl::StatusOr<DeviceMemory> grown = device_.Allocate(bytes, what);
  if (!Note(grown.status())) return nullptr;
  memory = *std::move(grown);
  return memory.data();
}

PromptScratch Backend::Scratch(int in) {
  const size_t bytes = std::max(kPromptScratchBytes, PromptScratchMin(in) * sizeof(bf16));
  bf16* const data = reinterpret_cast<bf16*>(Grown(prompt_scratch_, bytes, "expanded weights"));
  return {data, prompt_scratch_.size() / sizeof(bf16)};
}

bool Backend::Packed(const absl::StatusOr<bool>& written) {
  // An error of the device is told by `status`, and is none of the value's.
  return !Note(written.status()) || *written;
}

void Backend::Write(void* to, const void* host, size_t bytes) {
  if (status_.ok()) Note(ring_.Copy(to, host, bytes, &stream_));
}

// Pinned memory that the device copies to.
std::byte* Backend::Fetched(size_t bytes) {
  if (bytes <= fetched_.size()) return fetched_.data();
  fetched_ = {};
  absl::StatusOr<PinnedMemory> grown = device_.AllocatePinned(bytes, "copies from the device");
  if (Note(grown.status())) {
    fetched_ = *std::move(grown);
    return fetched_.data();
  }
  no_fetch_.resize(std::max(bytes, no_fetch_.size()));  // the caller needs something to look at
  return no_fetch_.data();
}

void Backend::Wait() {
  if (!status_.ok()) return;
  Note(stream_.CheckLaunches("a step"));
  Note(stream_.Synchronize());
}

void* Backend::Fetch(void* from, size_t bytes) {
  std::byte* const here = Fetched(bytes);
  if (status_.ok()) Note(stream_.CopyToHost(here, from, bytes));
  Wait();
  if (!status_.ok()) std::memset(here, 0xff, bytes);  // of floats: no numbers
  return here;
}

void Backend::Copy(void* to, const void* from, size_t bytes) {
  if (status_.ok()) Note(stream_.CopyOnDevice(to, from, bytes));
}

void Backend::Gather(const GatherArgs& args) {
  if (args.index.empty() || !status_.ok()) return;
  std::vector<int32_t> inverse;
  std::span<const int32_t> index = args.index;
  if (args.scatter) {
    inverse.assign(*std::max_element(index.begin(), index.end()) + 1, -1);
    for (size_t i = 0; i < index.size(); ++i) inverse[index[i]] = static_cast<int32_t>(i);
    index = inverse;
  }
  std::byte* const there = Grown(index_, index.size_bytes(), "rows that are moved");
  if (there == nullptr) return;
  Write(there, index.data(), index.size_bytes());
  const int rows = static_cast<int>(index.size());
  if (args.from == args.to) {
    CompactRows({.data = args.to,
                 .stride = static_cast<int64_t>(args.to_bytes),
                 .index = reinterpret_cast<const int32_t*>(there),
                 .row_bytes = static_cast<int64_t>(args.row_bytes),
                 .rows = rows},
                stream());
    return;
  }
  GatherRows({.src = args.from,
              .src_stride = static_cast<int64_t>(args.from_bytes),
              .index = reinterpret_cast<const int32_t*>(there),
              .dst = args.to,
              .dst_stride = static_cast<int64_t>(args.to_bytes),
              .row_bytes = static_cast<int64_t>(args.row_bytes),
              .rows = rows},
             stream());
}

const void* Backend::AsOperands(const float* x, void* space, int64_t count) {
  RoundRows({.x = x,
             .x_stride = count,
             .y = Operands(space),
             .y_stride = count,
             .rows = 1,
             .dim = static_cast<int>(count)},
            stream());
  return space;
}

// The tokens' rows of the table, which stays with the host.
void Backend::StagePle(const RowsArgs& args) {
  const size_t row_bytes = args.ple_row_values * sizeof(bf16);
  std::byte* const there = Grown(ple_rows_, stage_.rows() * row_bytes, "per-layer embeddings");
  if (there == nullptr) return;
  const size_t most = ring_.half_bytes() / row_bytes;
  for (size_t begin = 0; begin < args.ids.size(); begin += most) {
    const size_t count = std::min(most, args.ids.size() - begin);
    const absl::StatusOr<std::byte*> room = ring_.Take(count * row_bytes, &stream_);
    if (!Note(room.status())) return;
    for (size_t i = 0; i < count; ++i) {
      const int64_t id = args.ids[begin + i];
      const int64_t row = id >= 0 && id < args.ple_table_rows ? id : 0;
      std::memcpy(*room + i * row_bytes,
                  reinterpret_cast<const std::byte*>(args.ple_table) + row * row_bytes, row_bytes);
    }
    if (!Note(stream_.CopyToDevice(there + begin * row_bytes, *room, count * row_bytes))) return;
  }
}

StagedRows Backend::Stage(const RowsArgs& args) {
  StagedRows staged = {.rows = static_cast<int>(args.ids.size())};
  if (thread_ != std::this_thread::get_id()) {
    thread_ = std::this_thread::get_id();
    if (!Note(device_.UseOnThisThread())) return staged;
  }
  if (!status_.ok() || !Note(stage_.Stage(args, limits_, device_, &ring_, &stream_))) return staged;
  staged.rows = stage_.rows();
  if (args.ple_table != nullptr) StagePle(args);
  staged.ids = stage_.ids();
  staged.positions = stage_.positions();
  for (int g = 0; g < kNumStagedGroups; ++g) staged.cells[g] = stage_.cells(g);
  if (args.nonfinite == nullptr) return staged;
  if (counts_.size() == 0) {
    std::byte* const counts =
        Grown(counts_, kNumStagedGroups * sizeof(KvRowCounts), "counts of KV rows");
    if (counts == nullptr || !Note(stream_.Fill(counts, 0, counts_.size()))) return staged;
  }
  told_counts_ = args.counts;
  Found& found = found_[args.prompt ? 0 : 1];
  if (found.caller != nullptr) Collect();  // what the rows before these have found
  const size_t bytes = static_cast<size_t>(staged.rows) * sizeof(int32_t);
  std::byte* const flags = Grown(found.flags, bytes, "rows that are not finite");
  if (flags == nullptr || !Note(stream_.Fill(flags, 0, bytes))) return staged;
  found.caller = args.nonfinite;
  found.rows = args.ids.size();
  staged.nonfinite = reinterpret_cast<uint8_t*>(flags);
  return staged;
}

bool Backend::BeginRun(uint64_t program) {
  if (!status_.ok()) return false;
  if (generation_ != stage_.generation()) {
    generation_ = stage_.generation();
    runs_.clear();
  }
  run_ = {.program = program, .rows = stage_.rows()};
  for (int g = 0; g < kNumStagedGroups; ++g) {
    const StagedAttention& attention = stage_.attention(g);
    run_.groups[g] = {attention.grain.m_tiles, attention.grain.super_chunks, attention.num_waves,
                      attention.table_stride};
  }
  const auto [run, fresh] = runs_.try_emplace(run_);
  if (fresh) return true;
  if (run->second.has_value()) {
    Note(stream_.Launch(*run->second));
    return false;
  }
  recording_ = Note(stream_.BeginCapture());
  return recording_;
}

void Backend::EndRun() {
  if (!std::exchange(recording_, false)) return;
  absl::StatusOr<Graph> graph = stream_.EndCapture();
  if (!Note(graph.status())) return;
  const auto run = runs_.find(run_);
  if (run == runs_.end()) return;  // made void meanwhile
  run->second.emplace(*std::move(graph));
  Note(stream_.Launch(*run->second));
}

void Backend::Collect() {
  if (found_[0].caller == nullptr && found_[1].caller == nullptr) return;
  // One wait for all of it.
  const size_t flags = (found_[0].rows + found_[1].rows) * sizeof(int32_t);
  const size_t counts_at = (flags + 63) / 64 * 64;
  std::byte* const here = Fetched(counts_at + kNumStagedGroups * sizeof(KvRowCounts));
  size_t at = 0;
  for (const Found& found : found_) {
    if (found.caller == nullptr || !status_.ok()) continue;
    Note(stream_.CopyToHost(here + at, found.flags.data(), found.rows * sizeof(int32_t)));
    at += found.rows * sizeof(int32_t);
  }
  if (status_.ok()) {
    Note(stream_.CopyToHost(here + counts_at, counts_.data(),
                            kNumStagedGroups * sizeof(KvRowCounts)));
  }
  Wait();
  const auto* flag = reinterpret_cast<const int32_t*>(here);
  for (Found& found : found_) {
    if (found.caller == nullptr) continue;
    for (size_t i = 0; i < found.rows && status_.ok(); ++i) {
      found.caller[i] = *flag++ != 0 ? 1 : 0;
    }
    found.caller = nullptr;
    found.rows = 0;
  }
  const auto* counts = reinterpret_cast<const KvRowCounts*>(here + counts_at);
  for (int g = 0; g < kNumStagedGroups && status_.ok(); ++g) {
    if (told_counts_[g] == nullptr) continue;
    for (int side = 0; side < 2; ++side) {
      told_counts_[g]->nonfinite[side] = counts[g].nonfinite[side];
      told_counts_[g]->clamped[side] = counts[g].clamped[side];
      told_counts_[g]->zero[side] = counts[g].zero[side];
    }
  }
}

namespace {

absl::StatusOr<std::unique_ptr<DeviceBackend>> Make(const DeviceBackendConfig& config,
                                                    CpuBackend& host, const Machine& machine) {
  absl::StatusOr<Device> device = Device::Open(config.device, machine);
  if (!device.ok()) return device.status();
  absl::StatusOr<DeviceStream> stream = device->MakeStream();
  if (!stream.ok()) return stream.status();
  absl::StatusOr<HostRing> ring = HostRing::Make(*device, kRingBytes);
  if (!ring.ok()) return ring.status();
  auto backend = std::make_unique<Backend>(*std::move(device), *std::move(stream), *std::move(ring),
                                           host, config);
  if (absl::Status s = backend->status(); !s.ok()) return s;
  return backend;
}

}  // namespace
}  // namespace tandem::kernels::K_WORLD

namespace tandem::kernels {

#if defined(__CUDACC__)
absl::StatusOr<std::unique_ptr<DeviceBackend>> MakeCudaBackend(const DeviceBackendConfig& config,
                                                               CpuBackend& host) {
  return cuda::Make(config, host, {});
}
#else
absl::StatusOr<std::unique_ptr<DeviceBackend>> MakeEmulatedBackend(
    const DeviceBackendConfig& config, CpuBackend& host, const cuda_emu::Machine& machine) {
  return cuda_emu::Make(config, host, machine);
}
#endif

}  // namespace tandem::kernels
