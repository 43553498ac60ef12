// Where emulated kernels are launched: how they are scheduled, what they moved, what went wrong.
//
// Stands where a cudaStream_t stands on the device. What it is given runs before the call returns,
// or, as a device may do it, when somebody waits; between BeginCapture and EndCapture it becomes a
// graph and does not run.
// Threads   one caller at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/emu/block_runner.h"

namespace tandem::kernels::emu {

constexpr size_t kMaxSharedBytes = 227u << 10;  // of one block, as on sm_90

enum class Runs { kAtOnce, kWhenAwaited };

class Stream;

// Launches, copies and fills with the arguments they were recorded with; runs on any stream.
struct Graph {
  std::vector<std::function<void(Stream*)>> work;
};

class Stream {
 public:
  // Blocks are spread over `os_threads` threads, the caller among them.
  explicit Stream(Schedule schedule = {}, int os_threads = 1, Runs runs = Runs::kAtOnce);
  ~Stream();

  // Calls kernel once for every thread of every block. After an error the remaining blocks are left
  // out, and so is everything else until the error is taken. Shapes that a device would refuse are
  // errors: no blocks, threads not a multiple of 32 or above 1024, shared memory above 227 KiB.
  void Launch(const Kernel& kernel, const LaunchShape& shape);

  void Copy(void* dst, const void* src, size_t bytes);
  void Fill(void* dst, unsigned char value, size_t bytes);
  void LaunchGraph(std::shared_ptr<const Graph> graph);

  // Calls `run` when everything before has run; not part of a graph.
  void Mark(std::function<void()> run);

  bool capturing() const { return capture_ != nullptr; }
  void BeginCapture();                        // while not capturing
  std::shared_ptr<const Graph> EndCapture();  // while capturing

  // How many pieces of work the stream was given, and running the first `given` of them.
  uint64_t given() const { return given_; }
  void Await(uint64_t given);
  void Drop() { waiting_.clear(); }  // what was given and has not run never will

  // The first error since the last call, "file:line: what happened"; empty when there was none.
  std::string TakeError();

  // Global memory that all launches since the last call asked for through the wrappers.
  TrafficBytes TakeTraffic();

 private:
  void Give(std::function<void(Stream*)> work);
  void Run(const Kernel& kernel, const LaunchShape& shape);

  Schedule schedule_;
  Runs runs_;
  std::vector<std::unique_ptr<BlockRunner>> runners_;  // one per OS thread
  std::deque<std::function<void(Stream*)>> waiting_;   // oldest first
  uint64_t given_ = 0;                                 // those that have run, and waiting_
  std::shared_ptr<Graph> capture_;                     // null: none under way
  std::string error_;
};

}  // namespace tandem::kernels::emu
