// kernels::Ops over the CUDA kernels: every operation is a launch or two on one stream.
//
// Shapes are checked where a model is loaded; what the device says later is kept and told by
// `status`.
#include <algorithm>
#include <compare>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/check_shape.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/dequant_weights.h"
#include "kernels/cuda/embed_codes.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/host_ring.h"
#include "kernels/cuda/move_rows.h"
#include "kernels/cuda/norms.h"
#include "kernels/cuda/pick.h"
#include "kernels/cuda/prompt_gemm.h"
#include "kernels/cuda/qkv_post.h"
#include "kernels/cuda/rope_table.h"
#include "kernels/cuda/route.h"
#include "kernels/cuda/router_logits.h"
#include "kernels/cuda/row_ops.h"
#include "kernels/cuda/staged_rows.h"
#include "kernels/cuda/w_codes_pack.h"
#include "kernels/cuda/w_linear.h"
#include "kernels/cuda/w_linear_clusters.h"
#include "kernels/cuda/w_linear_codes.h"
#include "kernels/cuda/write_weights.h"
#if !defined(__CUDACC__)
#include "kernels/cuda/emulated_backend.h"
#endif

namespace tandem::kernels::K_WORLD {
namespace {

constexpr size_t kRingBytes = size_t{32} << 20;  // of a half
constexpr size_t kPromptScratchBytes = size_t{64} << 20;
constexpr int kMostHeadDim = 512;
constexpr int kMostMTiles = 2;
constexpr int kBlocksPerMultiprocessor = 4;  // of attention's grid

const bf16* Operands(const void* p) { return static_cast<const bf16*>(p); }
bf16* Operands(void* p) { return static_cast<bf16*>(p); }
float* Floats(void* p) { return static_cast<float*>(p); }

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

Backend& BackendOf(void* backend) { return *static_cast<Backend*>(backend); }

// Null once something has failed: what later operations would read may not be there.
Backend* Working(void* backend) {
  Backend& b = BackendOf(backend);
  return b.status().ok() ? &b : nullptr;
}

// Frees what DeviceMemory owns, when the engine lets it go.
void ReleaseOwned(void* owned, std::byte*, size_t) { delete static_cast<DeviceMemory*>(owned); }

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
  ops_.embed = [](void* b, const kernels::EmbedArgs& args) {
    if (Backend* const backend = Working(b)) backend->Embed(args);
  };
  ops_.ple = [](void* b, const kernels::PleArgs& args) {
    if (Backend* const backend = Working(b)) backend->Ple(args);
  };
  ops_.rms_norm = [](void* b, const RmsNormArgs& args) {
    Backend* const backend = Working(b);
    if (backend == nullptr) return;
    NormRows({.x = args.x,
              .weight = args.weight,
              .y = args.y_f32 ? nullptr : Operands(args.y),
              .y_f32 = args.y_f32 ? Floats(args.y) : nullptr,
              .rows = args.rows,
              .dim = args.dim,
              .eps = args.eps},
             backend->stream());
  };
  ops_.norm_add = [](void* b, const kernels::NormAddArgs& args) {
    Backend* const backend = Working(b);
    if (backend == nullptr) return;
    NormAdd({.a = args.a,
             .weight = args.weight,
             .h = args.h,
             .rows = args.rows,
             .dim = args.dim,
             .eps = args.eps,
             .scale = args.scale},
            backend->stream());
  };
  ops_.linear = [](void* b, const LinearArgs& args) {
    if (Backend* const backend = Working(b)) backend->Linear(args);
  };
  ops_.linear_clusters = [](void* b, const LinearClustersArgs& args) {
    if (Backend* const backend = Working(b)) backend->LinearClusters(args);
  };
  ops_.linear_geglu = [](void* b, const LinearGegluArgs& args) {
    if (Backend* const backend = Working(b)) backend->LinearGeglu(args);
  };
  ops_.gelu_mul = [](void* b, const kernels::GeluMulArgs& args) {
    Backend* const backend = Working(b);
    if (backend == nullptr) return;
    GeluMul({.a = args.a,
             .a_stride = args.a_stride,
             .b = args.b,
             .b_stride = args.b_stride,
             .y = Operands(args.y),
             .y_stride = args.y_stride,
             .rows = args.rows,
             .dim = args.dim},
            backend->stream());
  };
  ops_.rope_table = [](void* b, const kernels::RopeTableArgs& args) {
    Backend* const backend = Working(b);
    if (backend == nullptr) return;
    RopeTable({.positions = args.positions.data(),
               .inv_freq = args.inv_freq.data(),
               .live = static_cast<int>(args.inv_freq.size()),
               .rows = static_cast<int>(args.positions.size()),
               .cos = args.cos,
               .sin = args.sin},
              backend->stream());
  };
  ops_.qkv_post = [](void* b, const kernels::QkvPostArgs& args) {
    if (Backend* const backend = Working(b)) backend->QkvPost(args);
  };
  ops_.attention = [](void* b, const AttentionArgs& args) {
    if (Backend* const backend = Working(b)) backend->Attention(args);
  };
  ops_.route = [](void* b, const kernels::RouteArgs& args) {
    if (Backend* const backend = Working(b)) backend->Route(args);
  };
  ops_.experts = [](void* b, const kernels::ExpertsArgs& args) {
    if (Backend* const backend = Working(b)) backend->Experts(args);
  };
  ops_.softcap = [](void* b, const kernels::SoftcapArgs& args) {
    Backend* const backend = Working(b);
    if (backend == nullptr) return;
    Softcap({.x = args.x, .count = args.count, .cap = args.cap}, backend->stream());
  };
  ops_.pick = [](void* b, const kernels::PickArgs& args) { BackendOf(b).Pick(args); };
  ops_.for_each = [](void* b, int count, void (*task)(void* context, int i), void* context) {
    const Ops& host_ops = BackendOf(b).host_ops();
    host_ops.for_each(host_ops.backend, count, task, context);
  };
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

void Backend::Embed(const kernels::EmbedArgs& args) {
  const int rows = static_cast<int>(args.ids.size());
  const int64_t stride = args.out_stride > 0 ? args.out_stride : args.table.in;
  float* const out_f32 = args.out_operands ? nullptr : Floats(args.out);
  bf16* const out = args.out_operands ? Operands(args.out) : nullptr;
  if (args.table.format == WeightFormat::kBf16) {
    K_WORLD::Embed({.table = args.table.data,
                    .ids = args.ids.data(),
                    .scale = args.scale,
                    .out_f32 = out_f32,
                    .out = out,
                    .out_stride = stride,
                    .rows = rows,
                    .dim = args.table.in},
                   stream());
  } else {
    EmbedCodes({.codes = args.table.codes,
                .scales = args.table.scales,
                .ids = args.ids.data(),
                .scale = args.scale,
                .out_f32 = out_f32,
                .out = out,
                .out_stride = stride,
                .rows = rows,
                .dim = args.table.in},
               stream());
  }
}

void Backend::Ple(const kernels::PleArgs& args) {
  K_WORLD::Ple({.rows_of_table = reinterpret_cast<const bf16*>(ple_rows_.data()),
                .ctx = args.ctx,
                .norm = args.norm,
                .rows = static_cast<int>(args.ids.size()),
                .layers = args.layers,
                .width = args.width,
                .ctx_scale = args.ctx_scale,
                .table_scale = args.table_scale,
                .out_scale = args.out_scale,
                .eps = args.eps},
               stream());
}

WLinearArgs Backend::BfArgs(const LinearArgs& args) {
  return {.x = Operands(args.x),
          .x_stride = args.x_stride,
          .w = args.w.data,
          .y = args.y_operands ? Operands(args.y) : nullptr,
          .y_f32 = args.y_operands ? nullptr : Floats(args.y),
          .y_stride = args.y_stride,
          .rows = args.rows,
          .in = args.w.in,
          .out = args.w.out};
}

void Backend::Linear(const LinearArgs& args) {
  if (args.f32_operands) {
    RouterLogits({.x = static_cast<const float*>(args.x),
                  .x_stride = args.x_stride,
                  .w = args.w.data,
                  .y = Floats(args.y),
                  .rows = args.rows,
                  .in = args.w.in,
                  .experts = args.w.out},
                 stream());
    return;
  }
  const WLinearArgs plain = BfArgs(args);
  if (args.w.format == WeightFormat::kBf16) {
    if (args.prompt) {
      Note(prompt_gemm_.Linear(plain, stream()));
    } else {
      WLinear(plain, stream());
    }
    return;
  }
  const WLinearCodesArgs coded = {.x = plain.x,
                                  .x_stride = plain.x_stride,
                                  .format = args.w.format,
                                  .codes = args.w.codes,
                                  .scales = args.w.scales,
                                  .y = plain.y,
                                  .y_f32 = plain.y_f32,
                                  .y_stride = plain.y_stride,
                                  .rows = plain.rows,
                                  .in = plain.in,
                                  .out = plain.out};
  if (args.prompt) {
    Note(prompt_gemm_.LinearCodes(coded, Scratch(args.w.in), stream()));
  } else {
    WLinearCodes(coded, stream());
  }
}

void Backend::LinearClusters(const LinearClustersArgs& args) {
  WLinearClusters({.x = Operands(args.x),
                   .x_stride = args.x_stride,
                   .w = args.first.data,
                   .cluster_elements = static_cast<int64_t>(args.cluster_elements),
                   .ids = args.ids,
                   .chosen = args.chosen,
                   .y = args.y,
                   .y_stride = args.y_stride,
                   .rows = args.rows,
                   .in = args.first.in,
                   .cluster_rows = args.first.out},
                  stream());
}

void Backend::LinearGeglu(const LinearGegluArgs& args) {
  if (args.w.format == WeightFormat::kBf16) {
    const WLinearGegluArgs plain = {.x = Operands(args.x),
                                    .x_stride = args.x_stride,
                                    .w = args.w.data,
                                    .y = Operands(args.y),
                                    .y_stride = args.y_stride,
                                    .rows = args.rows,
                                    .in = args.w.in,
                                    .width = args.width};
    if (args.prompt) {
      Note(prompt_gemm_.Geglu(plain, stream()));
    } else {
      WLinearGeglu(plain, stream());
    }
    return;
  }
  const WLinearCodesGegluArgs coded = {.x = Operands(args.x),
                                       .x_stride = args.x_stride,
                                       .format = args.w.format,
                                       .codes = args.w.codes,
                                       .scales = args.w.scales,
                                       .y = Operands(args.y),
                                       .y_stride = args.y_stride,
                                       .rows = args.rows,
                                       .in = args.w.in,
                                       .width = args.width};
  if (args.prompt) {
    Note(prompt_gemm_.GegluCodes(coded, Scratch(args.w.in), stream()));
  } else {
    WLinearCodesGeglu(coded, stream());
  }
}

void Backend::QkvPost(const kernels::QkvPostArgs& args) {
  KvRowCounts* counts = nullptr;
  for (int g = 0; g < kNumStagedGroups; ++g) {
    if (args.counts != nullptr && args.counts == told_counts_[g]) {
      counts = reinterpret_cast<KvRowCounts*>(counts_.data()) + g;
    }
  }
  K_WORLD::QkvPost({.qkv = args.qkv,
                    .stride = args.stride,
                    .rows = args.rows,
                    .num_q_heads = args.num_q_heads,
                    .num_kv_heads = args.num_kv_heads,
                    .head_dim = args.head_dim,
                    .has_v = args.has_v,
                    .q_norm = args.q_norm,
                    .k_norm = args.k_norm,
                    .cos = args.cos,
                    .sin = args.sin,
                    .live = args.live,
                    .eps = args.eps,
                    .kv = args.kv,
                    .cells = args.cells,
                    .nonfinite = reinterpret_cast<int32_t*>(args.nonfinite),
                    .counts = counts},
                   stream());
}

void Backend::Attention(const AttentionArgs& args) {
  if (!status_.ok()) return;
  const StagedAttention& staged = stage_.attention(args.group);
  const auto* q = reinterpret_cast<const uint16_t*>(args.q);
  const int64_t q_stride = 2 * args.q_stride;
  const int64_t q_head_stride = int64_t{2} * args.head_dim;
  const int blocks = kBlocksPerMultiprocessor * limits_.multiprocessors;
  AttentionWork work = {.items = staged.items,
                        .parts = staged.parts,
                        .part_of_row = staged.part_of_row,
                        .visible = staged.visible,
                        .grain = staged.grain,
                        .chunk_tokens = staged.chunk_tokens,
                        .max_slots = limits_.max_slots};
  if (stage_.args().prompt) {
    work.wave = staged.waves;
    AttentionDirect({.work = work,
                     .q = q,
                     .q_stride = q_stride,
                     .q_head_stride = q_head_stride,
                     .block_tables = staged.block_tables,
                     .table_stride = staged.table_stride,
                     .num_q_heads = args.num_q_heads,
                     .num_kv_heads = args.num_kv_heads,
                     .head_dim = args.head_dim,
                     .kv = args.kv,
                     .out = Operands(args.out),
                     .blocks = blocks},
                    stream());
    return;
  }
  const size_t bytes = AttentionWorkspaceBytes(limits_.max_slots, kMostMTiles, kMostHeadDim);
  work.partials = reinterpret_cast<float*>(Grown(partials_, bytes, "partial results of attention"));
  if (work.partials == nullptr) return;
  for (int wave = 0; wave < staged.num_waves; ++wave) {
    work.wave = staged.waves + wave;
    AttentionSplit({.work = work,
                    .q = q,
                    .q_stride = q_stride,
                    .q_head_stride = q_head_stride,
                    .block_tables = staged.block_tables,
                    .table_stride = staged.table_stride,
                    .num_q_heads = args.num_q_heads,
                    .num_kv_heads = args.num_kv_heads,
                    .head_dim = args.head_dim,
                    .kv = args.kv,
                    .blocks = blocks},
                   stream());
    AttentionMerge({.work = work,
                    .out = Operands(args.out),
                    .rows = stage_.rows(),
                    .num_q_heads = args.num_q_heads,
                    .num_kv_heads = args.num_kv_heads,
                    .head_dim = args.head_dim,
                    .v_format = args.kv.v_format},
                   stream());
  }
}

void Backend::Route(const kernels::RouteArgs& args) {
  K_WORLD::Route({.logits = args.logits,
                  .rows = args.rows,
                  .experts = args.experts,
                  .top_k = args.top_k,
                  .expert_scale = args.expert_scale,
                  .ids = args.ids,
                  .weights = args.weights},
                 stream());
}

void Backend::Pick(const kernels::PickArgs& args) {
  const int count = static_cast<int>(args.requests.size());
  std::fill_n(args.ids, count, -1);
  std::vector<K_WORLD::PickRequest> requests;
  bool cuts = false;
  for (const kernels::PickRequest& request : args.requests) {
    requests.push_back({.seed = request.seed,
                        .position = request.position,
                        .row = request.row,
                        .temperature = request.temperature,
                        .top_k = request.top_k,
                        .top_p = request.top_p,
                        .min_p = request.min_p,
                        .choice = request.choice});
    cuts = cuts || (request.temperature > 0 && (request.top_k > 0 || request.top_p < 1));
  }
  const size_t request_bytes = requests.size() * sizeof(requests[0]);
  std::byte* const there = Grown(picks_, request_bytes + 2 * count * sizeof(int32_t), "draws");
  std::byte* const workspace =
      Grown(pick_workspace_, PickWorkspaceBytes(count, args.vocab, cuts), "draws");
  if (there == nullptr || workspace == nullptr) return;
  Write(there, requests.data(), request_bytes);
  auto* const ids = reinterpret_cast<int32_t*>(there + request_bytes);
  K_WORLD::Pick({.logits = args.logits,
                 .stride = args.vocab,
                 .suppressed = args.suppressed,
                 .requests = reinterpret_cast<const K_WORLD::PickRequest*>(there),
                 .count = count,
                 .vocab = args.vocab,
                 .cuts = cuts,
                 .workspace = workspace,
                 .ids = ids,
                 .finite = ids + count},
                stream());
  const auto* drawn = static_cast<const int32_t*>(Fetch(ids, count * sizeof(int32_t)));
  if (status_.ok()) std::copy_n(drawn, count, args.ids);
}

// Matrices of one shape, one behind the other.
ExpertMatrices MatricesOf(std::span<const WeightView> views) {
  ExpertMatrices matrices = {.format = views[0].format,
                             .w = views[0].data,
                             .codes = views[0].codes,
                             .scales = views[0].scales};
  if (views.size() < 2) return matrices;
  if (views[0].format == WeightFormat::kBf16) {
    matrices.stride = views[1].data - views[0].data;
  } else {
    matrices.stride = views[1].codes - views[0].codes;
    matrices.scale_stride = views[1].scales - views[0].scales;
  }
  return matrices;
}

void Backend::Experts(const kernels::ExpertsArgs& args) {
  const int experts = static_cast<int>(args.gate_up.size());
  std::byte* const workspace =
      Grown(experts_, ExpertsWorkspaceBytes(args.rows, args.dim, args.width, experts, args.top_k),
            "experts");
  if (workspace == nullptr) return;
  K_WORLD::Experts({.x = Operands(args.x),
                    .x_stride = args.dim,
                    .gate_up = MatricesOf(args.gate_up),
                    .down = MatricesOf(args.down),
                    .ids = args.ids,
                    .weights = args.weights,
                    .out = args.out,
                    .rows = args.rows,
                    .dim = args.dim,
                    .width = args.width,
                    .experts = experts,
                    .top_k = args.top_k,
                    .prompt = stage_.args().prompt},
                   workspace, stream());
}

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
