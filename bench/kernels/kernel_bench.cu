#include <algorithm>
#include <cstring>

#include "bench/kernels/kernel_bench.h"

namespace tandem::kernels::K_WORLD {
namespace {

constexpr int kWarmUps = 5;
constexpr int kReplays = 25;
constexpr size_t kAlignment = 256;
constexpr size_t kChunk = size_t{32} << 20;  // of random content, repeated
constexpr size_t kTinyChunk = size_t{1} << 16;

// SplitMix64.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

// Four 16-bit patterns 0x3c00 .. 0x3f7f with any sign: 2^-7 .. 1 as bf16, 1 .. 1.9 as f16.
uint64_t FourValues(uint64_t random) {
  uint64_t four = 0;
  for (int i = 0; i < 4; ++i) {
    const uint64_t part = random >> 16 * i & 0xffff;
    four |= (0x3c00 + (part & 0x7fff) % 0x380 + (part & 0x8000)) << 16 * i;
  }
  return four;
}

}  // namespace

absl::StatusOr<Bench> Bench::Open(const Device& device, bool tiny) {
  absl::StatusOr<DeviceStream> stream = device.MakeStream();
  if (!stream.ok()) return stream.status();
  Bench bench(device, *std::move(stream), tiny);
  const size_t chunk = tiny ? kTinyChunk : kChunk;
  for (PinnedMemory* memory : {&bench.values_, &bench.bytes_, &bench.staging_}) {
    absl::StatusOr<PinnedMemory> pinned = device.AllocatePinned(chunk, "random content");
    if (!pinned.ok()) return pinned.status();
    *memory = *std::move(pinned);
  }
  for (size_t i = 0; i < chunk / 8; ++i) {
    const uint64_t random = Mix(i), values = FourValues(Mix(~i));
    std::memcpy(bench.bytes_.data() + 8 * i, &random, 8);
    std::memcpy(bench.values_.data() + 8 * i, &values, 8);
  }
  for (int i = 0; i < 2 * kReplays; ++i) {
    absl::StatusOr<Event> event = device.MakeTimedEvent();
    if (!event.ok()) return event.status();
    bench.events_.push_back(*std::move(event));
  }
  const absl::StatusOr<size_t> free = device.FreeBytes();
  if (!free.ok()) return free.status();
  const size_t bytes = tiny ? size_t{64} << 20 : *free / 10 * 9;
  absl::StatusOr<DeviceMemory> memory = device.Allocate(bytes, "arrays of the benchmark");
  if (!memory.ok()) return memory.status();
  bench.memory_ = *std::move(memory);
  return bench;
}

int Bench::CallsPastL2(uint64_t bytes) const {
  if (tiny_) return 2;
  const uint64_t past = 4 * static_cast<uint64_t>(device().l2_bytes);
  return static_cast<int>(std::clamp<uint64_t>((past + bytes - 1) / bytes, 1, 64));
}

std::byte* Bench::TakeBytes(size_t bytes, Content content) {
  const size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (full_ || size > memory_.size() - used_) {
    full_ = true;
    return nullptr;
  }
  std::byte* taken = memory_.data() + used_;
  used_ += size;
  if (content == Content::kNothing) return taken;
  const PinnedMemory& from = content == Content::kValues ? values_ : bytes_;
  for (size_t at = 0; at < bytes; at += from.size()) {
    // A failure is told by Run, which waits.
    stream_.CopyToDevice(taken + at, from.data(), std::min(from.size(), bytes - at)).IgnoreError();
  }
  return taken;
}

std::byte* Bench::UploadBytes(const void* from, size_t bytes) {
  std::byte* taken = TakeBytes(bytes, Content::kNothing);
  if (taken == nullptr) return nullptr;
  for (size_t at = 0; at < bytes; at += staging_.size()) {
    const size_t part = std::min(staging_.size(), bytes - at);
    std::memcpy(staging_.data(), static_cast<const std::byte*>(from) + at, part);
    stream_.CopyToDevice(taken + at, staging_.data(), part).IgnoreError();
    stream_.Synchronize().IgnoreError();
  }
  return taken;
}

absl::Status Bench::Run(const BenchCase& c) {
  used_ = 0;
  if (full_) {
    full_ = false;
    left_out_.push_back(c.name);
    return absl::OkStatus();
  }
  if (absl::Status status = stream_.Synchronize(); !status.ok()) return status;
  if (absl::Status status = stream_.BeginCapture(); !status.ok()) return status;
  for (int call = 0; call < c.calls; ++call) c.give(call, stream_);
  absl::Status status = stream_.CheckLaunches(c.name);
  const absl::StatusOr<Graph> graph = stream_.EndCapture();
  status.Update(graph.status());
  if (!status.ok()) return status;
  for (int i = 0; i < kWarmUps; ++i) status.Update(stream_.Launch(*graph));
  const int replays = tiny_ ? 1 : kReplays;
  for (int i = 0; i < replays; ++i) {
    status.Update(stream_.Record(&events_[2 * i]));
    status.Update(stream_.Launch(*graph));
    status.Update(stream_.Record(&events_[2 * i + 1]));
  }
  status.Update(stream_.Synchronize());
  if (!status.ok()) return status;
  std::vector<double> us;
  for (int i = 0; i < replays; ++i) {
    const absl::StatusOr<double> time = events_[2 * i + 1].MicrosecondsSince(events_[2 * i]);
    if (!time.ok()) return time.status();
    us.push_back(*time / c.calls);
  }
  std::sort(us.begin(), us.end());
  results_.push_back(
      {c.name, c.bytes, c.flops, c.gate_us, us[us.size() / 2], us.front(), us.back()});
  return absl::OkStatus();
}

}  // namespace tandem::kernels::K_WORLD
