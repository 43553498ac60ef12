// device.h and device_info.h on the CUDA runtime.
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/cuda/device.h"

namespace tandem::kernels::cuda {

struct DeviceState {
  DeviceInfo info;
};

namespace {

// How long a wait asks again and again before it lets the thread sleep.
constexpr std::chrono::microseconds kSpin{200};

std::string ErrorText(cudaError_t error) {
  return absl::StrCat(cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
}

// Of calls that are not allowed while a graph is recorded.
bool IsCaptureError(cudaError_t error) {
  return error >= cudaErrorStreamCaptureUnsupported && error <= cudaErrorStreamCaptureWrongThread;
}

// The status of a failed call. After a fault in a kernel every call fails with its error.
absl::Status Failure(std::string_view what, cudaError_t error) {
  cudaGetLastError();
  if (!IsCaptureError(error) && cudaFree(nullptr) == error) return DeviceLost(ErrorText(error));
  return absl::InternalError(absl::StrCat(std::string(what), ": ", ErrorText(error)));
}

absl::Status Checked(std::string_view what, cudaError_t error) {
  return error == cudaSuccess ? absl::OkStatus() : Failure(what, error);
}

// What a wait finds was done by work on the device, and is the end of its context.
absl::Status Awaited(cudaError_t error) {
  if (error == cudaSuccess) return absl::OkStatus();
  return IsCaptureError(error) ? Failure("a wait", error) : DeviceLost(ErrorText(error));
}

struct Machines {
  int driver_version = 0;
  int runtime_version = 0;
  int devices = 0;
};

absl::StatusOr<Machines> LookAround() {
  Machines found;
  cudaDriverGetVersion(&found.driver_version);  // stays 0 without a driver
  cudaRuntimeGetVersion(&found.runtime_version);
  if (absl::Status status = CheckDriver(found.driver_version, found.runtime_version);
      !status.ok()) {
    return status;
  }
  const cudaError_t error = cudaGetDeviceCount(&found.devices);
  if (error == cudaErrorNoDevice) {
    found.devices = 0;
  } else if (error != cudaSuccess) {
    cudaGetLastError();
    return absl::FailedPreconditionError(
        absl::StrCat("the NVIDIA driver does not start: ", ErrorText(error),
                     "; check nvidia-smi (after an update of the driver the machine may have to be "
                     "restarted), or use --device cpu"));
  }
  return found;
}

absl::StatusOr<DeviceInfo> PropertiesOf(int index, const Machines& machines) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, index); error != cudaSuccess) {
    return Failure(absl::StrCat("properties of device ", index), error);
  }
  return DeviceInfo{.index = index,
                    .name = properties.name,
                    .major = properties.major,
                    .minor = properties.minor,
                    .multiprocessors = properties.multiProcessorCount,
                    .block_shared_bytes = properties.sharedMemPerBlockOptin,
                    .l2_bytes = static_cast<size_t>(properties.l2CacheSize),
                    .total_bytes = properties.totalGlobalMem,
                    .free_bytes = 0,
                    .driver_version = machines.driver_version,
                    .runtime_version = machines.runtime_version};
}

// Makes the device's context, which takes memory, and finds out what is left.
absl::Status Enter(DeviceInfo* info) {
  cudaError_t error = cudaSetDevice(info->index);
  size_t total = 0;
  if (error == cudaSuccess) error = cudaMemGetInfo(&info->free_bytes, &total);
  if (error == cudaSuccess) return absl::OkStatus();
  cudaGetLastError();
  if (error == cudaErrorMemoryAllocation) return DeviceIsFull(*info);
  if (error == cudaErrorDevicesUnavailable) {
    return absl::UnavailableError(
        absl::StrFormat("device %d (%s) is busy: another process has reserved it (exclusive "
                        "compute mode); end that process or choose another device",
                        info->index, info->name));
  }
  return absl::FailedPreconditionError(absl::StrFormat("device %d (%s) does not start: %s",
                                                       info->index, info->name, ErrorText(error)));
}

}  // namespace

int RuntimeVersion() { return CUDART_VERSION; }

absl::StatusOr<std::vector<DeviceInfo>> ListDevices() {
  const absl::StatusOr<Machines> machines = LookAround();
  if (!machines.ok()) return machines.status();
  std::vector<DeviceInfo> devices;
  for (int i = 0; i < machines->devices; ++i) {
    absl::StatusOr<DeviceInfo> info = PropertiesOf(i, *machines);
    if (!info.ok()) return info.status();
    Enter(&*info).IgnoreError();  // no free bytes then
    devices.push_back(*std::move(info));
  }
  return devices;
}

void FreeDeviceBytes::operator()(std::byte* bytes) const { cudaFree(bytes); }
void FreePinnedBytes::operator()(std::byte* bytes) const { cudaFreeHost(bytes); }

// Events.

struct Event::Impl {
  cudaEvent_t event = nullptr;
  ~Impl() {
    if (event != nullptr) cudaEventDestroy(event);
  }
};

Event::Event(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Event::Event(Event&&) noexcept = default;
Event& Event::operator=(Event&&) noexcept = default;
Event::~Event() = default;

absl::Status Event::Wait() {
  const auto until = std::chrono::steady_clock::now() + kSpin;
  cudaError_t error;
  while ((error = cudaEventQuery(impl_->event)) == cudaErrorNotReady) {
    if (std::chrono::steady_clock::now() < until) continue;
    error = cudaEventSynchronize(impl_->event);
    break;
  }
  return Awaited(error);
}

absl::StatusOr<double> Event::MicrosecondsSince(const Event& earlier) const {
  float milliseconds = 0.0f;
  const cudaError_t error = cudaEventElapsedTime(&milliseconds, earlier.impl_->event, impl_->event);
  if (error != cudaSuccess) return Failure("time between events", error);
  return double{milliseconds} * 1000.0;
}

// Graphs and streams.

struct Graph::Impl {
  cudaGraphExec_t graph = nullptr;
  ~Impl() {
    if (graph != nullptr) cudaGraphExecDestroy(graph);
  }
};

Graph::Graph(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Graph::Graph(Graph&&) noexcept = default;
Graph& Graph::operator=(Graph&&) noexcept = default;
Graph::~Graph() = default;

struct DeviceStream::Impl {
  std::shared_ptr<DeviceState> device;
  cudaStream_t stream = nullptr;
  ~Impl() {
    if (stream == nullptr) return;
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
  }
};

DeviceStream::DeviceStream(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
DeviceStream::DeviceStream(DeviceStream&&) noexcept = default;
DeviceStream& DeviceStream::operator=(DeviceStream&&) noexcept = default;
DeviceStream::~DeviceStream() = default;

Stream DeviceStream::get() const { return impl_->stream; }

absl::Status DeviceStream::CopyToDevice(void* dst, const void* src, size_t bytes) {
  return Checked("copy to the device",
                 cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, impl_->stream));
}

absl::Status DeviceStream::CopyToHost(void* dst, const void* src, size_t bytes) {
  return Checked("copy from the device",
                 cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, impl_->stream));
}

absl::Status DeviceStream::CopyOnDevice(void* dst, const void* src, size_t bytes) {
  return Checked("copy on the device",
                 cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, impl_->stream));
}

absl::Status DeviceStream::Fill(void* dst, unsigned char value, size_t bytes) {
  return Checked("fill", cudaMemsetAsync(dst, value, bytes, impl_->stream));
}

absl::Status DeviceStream::CheckLaunches(std::string_view what) {
  return Checked(what, cudaGetLastError());
}

absl::Status DeviceStream::Synchronize() { return Awaited(cudaStreamSynchronize(impl_->stream)); }

absl::Status DeviceStream::Record(Event* event) {
  return Checked("event", cudaEventRecord(event->impl_->event, impl_->stream));
}

absl::Status DeviceStream::BeginCapture() {
  return Checked("begin of a graph",
                 cudaStreamBeginCapture(impl_->stream, cudaStreamCaptureModeThreadLocal));
}

absl::StatusOr<Graph> DeviceStream::EndCapture() {
  cudaGraph_t recorded = nullptr;
  cudaError_t error = cudaStreamEndCapture(impl_->stream, &recorded);
  auto graph = std::make_unique<Graph::Impl>();
  if (error == cudaSuccess) {
    error = cudaGraphInstantiate(&graph->graph, recorded, 0);
    cudaGraphDestroy(recorded);
  }
  if (error == cudaSuccess) error = cudaGraphUpload(graph->graph, impl_->stream);
  if (error != cudaSuccess) return Failure("recording a graph", error);
  return Graph(std::move(graph));
}

absl::Status DeviceStream::Launch(const Graph& graph) {
  return Checked("launch of a graph", cudaGraphLaunch(graph.impl_->graph, impl_->stream));
}

// The device.

absl::StatusOr<Device> Device::Open(int index, const Machine&) {
  const absl::StatusOr<Machines> machines = LookAround();
  if (!machines.ok()) return machines.status();
  if (absl::Status status = CheckDeviceIndex(index, machines->devices); !status.ok()) {
    return status;
  }
  absl::StatusOr<DeviceInfo> info = PropertiesOf(index, *machines);
  if (!info.ok()) return info.status();
  if (absl::Status status = DeviceCodeFor(info->major, info->minor).status(); !status.ok()) {
    return status;
  }
  if (absl::Status status = Enter(&*info); !status.ok()) return status;
  return Device(std::make_shared<DeviceState>(DeviceState{*std::move(info)}));
}

const DeviceInfo& Device::info() const { return state_->info; }

absl::Status Device::UseOnThisThread() const {
  return Checked("choice of the device", cudaSetDevice(state_->info.index));
}

absl::StatusOr<size_t> Device::FreeBytes() const {
  size_t free = 0, total = 0;
  const cudaError_t error = cudaMemGetInfo(&free, &total);
  if (error != cudaSuccess) return Failure("free memory", error);
  return free;
}

absl::StatusOr<DeviceMemory> Device::Allocate(size_t bytes, std::string_view what) const {
  if (bytes == 0) return DeviceMemory();
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    const absl::StatusOr<size_t> free = FreeBytes();
    if (!free.ok()) return free.status();
    return OutOfDeviceMemory(what, bytes, *free, state_->info.total_bytes);
  }
  if (error != cudaSuccess) return Failure(what, error);
  return DeviceMemory(static_cast<std::byte*>(data), bytes, {state_});
}

absl::StatusOr<PinnedMemory> Device::AllocatePinned(size_t bytes, std::string_view what) const {
  if (bytes == 0) return PinnedMemory();
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocPortable);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return OutOfPinnedMemory(what, bytes, cudaGetErrorString(error));
  }
  if (error != cudaSuccess) return Failure(what, error);
  return PinnedMemory(static_cast<std::byte*>(data), bytes, {state_});
}

absl::StatusOr<DeviceStream> Device::MakeStream() const {
  auto impl = std::make_unique<DeviceStream::Impl>();
  impl->device = state_;
  const cudaError_t error = cudaStreamCreateWithFlags(&impl->stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) return Failure("stream", error);
  return DeviceStream(std::move(impl));
}

absl::StatusOr<Event> Device::MakeEvent() const {
  auto impl = std::make_unique<Event::Impl>();
  const cudaError_t error =
      cudaEventCreateWithFlags(&impl->event, cudaEventDisableTiming | cudaEventBlockingSync);
  if (error != cudaSuccess) return Failure("event", error);
  return Event(std::move(impl));
}

absl::StatusOr<Event> Device::MakeTimedEvent() const {
  auto impl = std::make_unique<Event::Impl>();
  const cudaError_t error = cudaEventCreateWithFlags(&impl->event, cudaEventBlockingSync);
  if (error != cudaSuccess) return Failure("event", error);
  return Event(std::move(impl));
}

}  // namespace tandem::kernels::cuda
