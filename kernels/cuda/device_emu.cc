// device.h without a device: memory of the heap, streams of kernels/emu.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/device.h"
#include "kernels/emu/stream.h"

namespace tandem::kernels::cuda_emu {

struct DeviceState {
  DeviceInfo info;
  Machine machine;
  int allocations = 0;  // asked for so far
  int waits = 0;
  std::string lost;                              // why; empty: it is not
  std::unordered_map<std::byte*, size_t> sizes;  // of what is allocated on the device
  size_t allocated_bytes = 0;
  std::vector<emu::Stream*> streams;

  size_t free_bytes() const {
    return machine.memory_bytes - std::min(machine.memory_bytes, machine.used_bytes) -
           allocated_bytes;
  }
  bool capturing() const {
    return std::any_of(streams.begin(), streams.end(),
                       [](const emu::Stream* stream) { return stream->capturing(); });
  }
  // Everything given has happened afterwards, or never will.
  void Finish(emu::Stream* stream) {
    if (lost.empty()) {
      stream->Await(stream->given());
    } else {
      stream->Drop();
    }
  }
  void Finish() {
    for (emu::Stream* stream : streams) Finish(stream);
  }
};

namespace {

constexpr size_t kAlignment = 256;

// 0xFF everywhere: NaN as a float, never a valid index.
std::byte* NewBytes(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, bytes) != 0) return nullptr;
  std::memset(memory, 0xff, bytes);
  return static_cast<std::byte*>(memory);
}

absl::Status CaptureForbids(std::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat(std::string(what), " while a stream records a graph"));
}

// One more allocation is asked for: OK, or why there is none.
absl::Status CheckAllocation(DeviceState& device, bool* fails) {
  if (!device.lost.empty()) return DeviceLost(device.lost);
  if (device.capturing()) return CaptureForbids("an allocation");
  *fails = ++device.allocations == device.machine.failing_allocation;
  return absl::OkStatus();
}

absl::Status AwaitStream(DeviceState& device, emu::Stream& stream, uint64_t given) {
  if (device.lost.empty()) {
    if (device.capturing()) return CaptureForbids("a wait");
    stream.Await(given);
    device.lost = stream.TakeError();
    if (++device.waits == device.machine.failing_synchronize && device.lost.empty()) {
      device.lost = "a planted fault";
    }
  }
  return device.lost.empty() ? absl::OkStatus() : DeviceLost(device.lost);
}

}  // namespace

void FreeDeviceBytes::operator()(std::byte* bytes) const {
  device->Finish();
  const auto found = device->sizes.find(bytes);
  device->allocated_bytes -= found->second;
  device->sizes.erase(found);
  std::free(bytes);
}

void FreePinnedBytes::operator()(std::byte* bytes) const {
  device->Finish();
  std::free(bytes);
}

// Events.

struct Event::Impl {
  std::shared_ptr<DeviceState> device;
  std::shared_ptr<emu::Stream> stream;  // null before the first Record
  uint64_t given = 0;                   // of the stream, with the mark
  std::shared_ptr<std::chrono::steady_clock::time_point> passed;
};

Event::Event(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Event::Event(Event&&) noexcept = default;
Event& Event::operator=(Event&&) noexcept = default;
Event::~Event() = default;

absl::Status Event::Wait() {
  if (impl_->stream == nullptr) return absl::OkStatus();
  return AwaitStream(*impl_->device, *impl_->stream, impl_->given);
}

absl::StatusOr<double> Event::MicrosecondsSince(const Event& earlier) const {
  if (impl_->passed == nullptr || earlier.impl_->passed == nullptr) {
    return absl::FailedPreconditionError("time between events of which one was not recorded");
  }
  return std::chrono::duration<double, std::micro>(*impl_->passed - *earlier.impl_->passed).count();
}

// Graphs and streams.

struct Graph::Impl {
  std::shared_ptr<const emu::Graph> graph;
};

Graph::Graph(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
Graph::~Graph() = default;

struct DeviceStream::Impl {
  std::shared_ptr<DeviceState> device;
  std::shared_ptr<emu::Stream> stream;

  ~Impl() {
    if (stream->capturing()) stream->EndCapture();
    device->Finish(stream.get());
    std::erase(device->streams, stream.get());
  }
  absl::Status Lost() const {
    return device->lost.empty() ? absl::OkStatus() : DeviceLost(device->lost);
  }
  // What a device does with a capture during which something forbidden was asked for.
  absl::Status Refused(absl::Status status) {
    if (!status.ok() && stream->capturing()) stream->EndCapture();
    return status;
  }
};

DeviceStream::DeviceStream(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeviceStream::DeviceStream(DeviceStream&&) noexcept = default;
DeviceStream& DeviceStream::operator=(DeviceStream&&) noexcept = default;
DeviceStream::~DeviceStream() = default;

Stream DeviceStream::get() const { return impl_->stream.get(); }

absl::Status DeviceStream::CopyToDevice(void* dst, const void* src, size_t bytes) {
  if (impl_->device->lost.empty()) impl_->stream->Copy(dst, src, bytes);
  return impl_->Lost();
}

absl::Status DeviceStream::CopyToHost(void* dst, const void* src, size_t bytes) {
  if (impl_->device->lost.empty()) impl_->stream->Copy(dst, src, bytes);
  return impl_->Lost();
}

absl::Status DeviceStream::CopyOnDevice(void* dst, const void* src, size_t bytes) {
  if (impl_->device->lost.empty()) impl_->stream->Copy(dst, src, bytes);
  return impl_->Lost();
}

absl::Status DeviceStream::Fill(void* dst, unsigned char value, size_t bytes) {
  if (impl_->device->lost.empty()) impl_->stream->Fill(dst, value, bytes);
  return impl_->Lost();
}

absl::Status DeviceStream::CheckLaunches(std::string_view what) {
  if (!impl_->device->lost.empty()) return impl_->Lost();
  const std::string error = impl_->stream->TakeError();
  if (error.empty()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(std::string(what), ": ", error));
}

absl::Status DeviceStream::Synchronize() {
  return impl_->Refused(AwaitStream(*impl_->device, *impl_->stream, impl_->stream->given()));
}

absl::Status DeviceStream::Record(Event* event) {
  if (impl_->stream->capturing()) return impl_->Refused(CaptureForbids("an event"));
  Event::Impl& to = *event->impl_;
  to.stream = impl_->stream;
  to.passed = std::make_shared<std::chrono::steady_clock::time_point>();
  impl_->stream->Mark([passed = to.passed] { *passed = std::chrono::steady_clock::now(); });
  to.given = impl_->stream->given();
  return impl_->Lost();
}

absl::Status DeviceStream::BeginCapture() {
  if (impl_->stream->capturing()) return impl_->Refused(CaptureForbids("a second capture"));
  impl_->stream->BeginCapture();
  return impl_->Lost();
}

absl::StatusOr<Graph> DeviceStream::EndCapture() {
  if (!impl_->stream->capturing()) {
    return absl::FailedPreconditionError("no graph is being recorded, or an error ended it");
  }
  std::shared_ptr<const emu::Graph> graph = impl_->stream->EndCapture();
  if (absl::Status status = CheckLaunches("recording a graph"); !status.ok()) return status;
  return Graph(std::make_unique<Graph::Impl>(Graph::Impl{std::move(graph)}));
}

absl::Status DeviceStream::Launch(const Graph& graph) {
  if (impl_->device->lost.empty()) impl_->stream->LaunchGraph(graph.impl_->graph);
  return impl_->Lost();
}

// The device.

absl::StatusOr<Device> Device::Open(int index, const Machine& machine) {
  absl::Status usable = CheckDriver(machine.driver_version, machine.runtime_version);
  usable.Update(CheckDeviceIndex(index, machine.devices));
  usable.Update(DeviceCodeFor(machine.major, machine.minor).status());
  if (!usable.ok()) return usable;
  auto state = std::make_shared<DeviceState>();
  state->machine = machine;
  state->info = {.index = index,
                 .name = "emulated device",
                 .major = machine.major,
                 .minor = machine.minor,
                 .multiprocessors = machine.multiprocessors,
                 .block_shared_bytes = emu::kMaxSharedBytes,
                 .l2_bytes = size_t{1} << 20,
                 .total_bytes = machine.memory_bytes,
                 .free_bytes = state->free_bytes(),
                 .driver_version = machine.driver_version,
                 .runtime_version = machine.runtime_version};
  if (state->info.free_bytes == 0) return DeviceIsFull(state->info);
  return Device(std::move(state));
}

const DeviceInfo& Device::info() const { return state_->info; }

absl::Status Device::UseOnThisThread() const {
  return state_->lost.empty() ? absl::OkStatus() : DeviceLost(state_->lost);
}

absl::StatusOr<size_t> Device::FreeBytes() const {
  if (!state_->lost.empty()) return DeviceLost(state_->lost);
  return state_->free_bytes();
}

absl::StatusOr<DeviceMemory> Device::Allocate(size_t bytes, std::string_view what) const {
  if (bytes == 0) return DeviceMemory();
  bool fails = false;
  if (absl::Status status = CheckAllocation(*state_, &fails); !status.ok()) return status;
  std::byte* data = fails || bytes > state_->free_bytes() ? nullptr : NewBytes(bytes);
  if (data == nullptr) {
    return OutOfDeviceMemory(what, bytes, state_->free_bytes(), state_->info.total_bytes);
  }
  state_->sizes[data] = bytes;
  state_->allocated_bytes += bytes;
  return DeviceMemory(data, bytes, {state_});
}

absl::StatusOr<PinnedMemory> Device::AllocatePinned(size_t bytes, std::string_view what) const {
  if (bytes == 0) return PinnedMemory();
  bool fails = false;
  if (absl::Status status = CheckAllocation(*state_, &fails); !status.ok()) return status;
  std::byte* data = fails ? nullptr : NewBytes(bytes);
  if (data == nullptr) return OutOfPinnedMemory(what, bytes, "out of memory");
  return PinnedMemory(data, bytes, {state_});
}

absl::StatusOr<DeviceStream> Device::MakeStream() const {
  if (!state_->lost.empty()) return DeviceLost(state_->lost);
  const Machine& machine = state_->machine;
  auto stream = std::make_shared<emu::Stream>(
      machine.schedule, machine.os_threads,
      machine.runs_at_once ? emu::Runs::kAtOnce : emu::Runs::kWhenAwaited);
  state_->streams.push_back(stream.get());
  return DeviceStream(
      std::unique_ptr<DeviceStream::Impl>(new DeviceStream::Impl{state_, std::move(stream)}));
}

absl::StatusOr<Event> Device::MakeEvent() const {
  if (!state_->lost.empty()) return DeviceLost(state_->lost);
  return Event(std::unique_ptr<Event::Impl>(new Event::Impl{state_, nullptr, 0, nullptr}));
}

absl::StatusOr<Event> Device::MakeTimedEvent() const { return MakeEvent(); }

}  // namespace tandem::kernels::cuda_emu
