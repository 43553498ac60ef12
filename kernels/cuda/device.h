// A CUDA device at work: its memory, pinned host memory, streams, events and graphs.
//
// The only place that talks to the CUDA runtime. device_cuda.cu does so; device_emu.cc stands in
// for it with heap memory and emu::Stream, for tests.
//
// Emulated  Arrays have their exact size and hold 0xFF: AddressSanitizer finds overruns, results
//           what was never written. What a stream was given runs when somebody waits for it, so
//           reading too early or overwriting the source of a copy shows.
// Errors    ResourceExhausted for memory. Unavailable when the device is lost: then every later
//           call fails alike, and only a new process helps.
// Not here  which devices there are (device_info.h).
// Threads   one caller at a time.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/device_info.h"
#include "kernels/cuda/kport.h"

namespace tandem::kernels::K_WORLD {

#if defined(__CUDACC__)
// The machine is what it is.
struct Machine {};
#else
// What the emulated machine has, and which faults it is to show.
struct Machine {
  int devices = 1;
  int driver_version = 13000;
  int runtime_version = 13000;
  int major = 9;  // compute capability
  int minor = 0;
  int multiprocessors = 4;
  size_t memory_bytes = size_t{2} << 30;
  size_t used_bytes = 0;        // by other processes
  int failing_allocation = 0;   // the n-th of device or pinned memory fails; 0: none
  int failing_synchronize = 0;  // the n-th wait for a stream or an event finds the device lost
  emu::Schedule schedule;
  int os_threads = 1;         // of one stream
  bool runs_at_once = false;  // whatever a stream is given, before the call returns
};
#endif

struct DeviceState;  // of this world

struct FreeDeviceBytes {
  std::shared_ptr<DeviceState> device;
  void operator()(std::byte* bytes) const;
};
struct FreePinnedBytes {
  std::shared_ptr<DeviceState> device;
  void operator()(std::byte* bytes) const;
};

template <typename Free>
class OwnedBytes {
 public:
  OwnedBytes() = default;
  OwnedBytes(std::byte* data, size_t size, Free free)
      : data_(data, std::move(free)), size_(data != nullptr ? size : 0) {}
  OwnedBytes(OwnedBytes&& other) noexcept
      : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  OwnedBytes& operator=(OwnedBytes&& other) noexcept {
    data_ = std::move(other.data_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }

  std::byte* data() const { return data_.get(); }  // null when size() is 0
  size_t size() const { return size_; }

 private:
  std::unique_ptr<std::byte, Free> data_;
  size_t size_ = 0;
};

// What kernels read and write. Aligned to 256 bytes. Freeing waits for the device.
using DeviceMemory = OwnedBytes<FreeDeviceBytes>;
// Host memory that a device copies from and to while the host goes on; aligned likewise.
using PinnedMemory = OwnedBytes<FreePinnedBytes>;

// A point in a stream, set by DeviceStream::Record.
class Event {
 public:
  struct Impl;
  explicit Event(std::unique_ptr<Impl> impl);
  Event(Event&&) noexcept;
  Event& operator=(Event&&) noexcept;
  ~Event();

  // Spins for a moment, then blocks, until the stream has come to the point; at once before the
  // first Record.
  absl::Status Wait();

  // Time between two events of MakeTimedEvent that have been waited for.
  absl::StatusOr<double> MicrosecondsSince(const Event& earlier) const;

 private:
  friend class DeviceStream;
  std::unique_ptr<Impl> impl_;
};

// Launches, copies and fills as recorded between BeginCapture and EndCapture, with the addresses
// and arguments they had.
class Graph {
 public:
  struct Impl;
  explicit Graph(std::unique_ptr<Impl> impl);
  Graph(Graph&&) noexcept;
  Graph& operator=(Graph&&) noexcept;
  ~Graph();

 private:
  friend class DeviceStream;
  std::unique_ptr<Impl> impl_;
};

// What it is given happens in order, and by itself: calls return before it is done.
class DeviceStream {
 public:
  struct Impl;
  explicit DeviceStream(std::unique_ptr<Impl> impl);
  DeviceStream(DeviceStream&&) noexcept;
  DeviceStream& operator=(DeviceStream&&) noexcept;
  ~DeviceStream();  // waits

  Stream get() const;  // where kernels are launched

  // The host side of a copy is pinned memory, untouched until the copy is done.
  absl::Status CopyToDevice(void* dst, const void* src, size_t bytes);
  absl::Status CopyToHost(void* dst, const void* src, size_t bytes);
  absl::Status CopyOnDevice(void* dst, const void* src, size_t bytes);  // not overlapping
  absl::Status Fill(void* dst, unsigned char value, size_t bytes);

  // What the launches since the last call were refused for, `what` naming them; Internal. Faults
  // inside kernels show at the next wait.
  absl::Status CheckLaunches(std::string_view what);

  // Waits until everything given so far has happened.
  absl::Status Synchronize();
  absl::Status Record(Event* event);

  // In between nothing runs, and nothing may wait or allocate. An error ends the capture.
  absl::Status BeginCapture();
  absl::StatusOr<Graph> EndCapture();
  absl::Status Launch(const Graph& graph);

 private:
  std::unique_ptr<Impl> impl_;
};

// A device in use by this process. What it made keeps it in use.
class Device {
 public:
  // Errors, each with what to do: no driver, a driver older than the runtime, no device, no device
  // of that index, no kernels for its architecture, its memory taken or the device reserved by
  // another process. Calls UseOnThisThread.
  static absl::StatusOr<Device> Open(int index, const Machine& machine = {});

  const DeviceInfo& info() const;

  // Every thread but the one that opened it calls this once before it uses anything of the device.
  absl::Status UseOnThisThread() const;

  absl::StatusOr<size_t> FreeBytes() const;  // of device memory, now

  // `what` is named by errors, such as "KV blocks". 0 bytes are fine.
  absl::StatusOr<DeviceMemory> Allocate(size_t bytes, std::string_view what) const;
  absl::StatusOr<PinnedMemory> AllocatePinned(size_t bytes, std::string_view what) const;

  absl::StatusOr<DeviceStream> MakeStream() const;
  absl::StatusOr<Event> MakeEvent() const;
  absl::StatusOr<Event> MakeTimedEvent() const;

 private:
  explicit Device(std::shared_ptr<DeviceState> state) : state_(std::move(state)) {}
  std::shared_ptr<DeviceState> state_;
};

}  // namespace tandem::kernels::K_WORLD
