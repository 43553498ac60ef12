// Runs the blocks of a launch one after the other on one OS thread, every CUDA thread on a fiber.
//
// A warp runs until it waits at a block barrier, then the next warp of the schedule does: a thread
// races ahead as far as it may, so a missing barrier shows in the results. (Switching after every
// instruction would resemble lock-step and hide it.)
//
// Not here  what shuffles and matrix instructions compute (warp_ops.cc); spreading blocks over OS
//           threads (stream.cc).
// Threads   one OS thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "kernels/emu/fiber.h"
#include "kernels/emu/thread.h"

namespace tandem::kernels::emu {

enum class Order { kForward, kReverse, kSeeded };

// In which order blocks, warps and lanes run where the kernel leaves it open.
struct Schedule {
  Order order = Order::kForward;
  uint64_t seed = 0;  // kSeeded only
};

struct Kernel {
  void (*call)(const void* context);
  const void* context;
  // A copy of the context, for a launch that runs after its caller has gone on.
  std::shared_ptr<const void> (*copy)(const void* context);
};

struct LaunchShape {
  dim3 grid;
  unsigned threads = 0;  // per block: a multiple of 32, at most 1024
  size_t dynamic_shared_bytes = 0;
};

struct TrafficBytes {
  uint64_t read = 0;
  uint64_t written = 0;
};

constexpr int kWarpLanes = 32;

// Each lane has one record in a warp-wide operation; those of lanes outside `mask` mean nothing.
using CombineFunction = void (*)(void* const records[kWarpLanes], uint32_t mask);

class BlockRunner {
 public:
  BlockRunner() = default;
  ~BlockRunner();
  BlockRunner(const BlockRunner&) = delete;
  BlockRunner& operator=(const BlockRunner&) = delete;

  // Runs one block to its end. False when it broke a rule; then error() says which and where.
  // end_tag is released by every thread that returns (ThreadSanitizer).
  bool Run(const Kernel& kernel, const LaunchShape& shape, const Schedule& schedule,
           uint64_t block_number, void* end_tag);

  const std::string& error() const { return error_; }

  // The runner of the calling emulated thread.
  static BlockRunner& Current();

  // For the running thread; thread.h says what they do.
  int BlockBarrier(const char* name, int predicate, Site site);
  void WarpBarrier(uint32_t mask, Site site);
  void IssueCopy(const Copy& copy);
  void CommitCopies();
  bool TakeCopy(int newest_groups_left, Copy* copy);
  void* StaticShared(const void* key, size_t bytes, size_t alignment);
  void* DynamicShared() { return shared_.front().memory; }
  bool IsShared(const void* begin, size_t bytes) const;
  TrafficBytes& traffic() { return traffic_; }

  // Waits until every lane of `mask` has called it from the same line; the last one to come runs
  // `combine` (may be null) over the records of all before any returns.
  void Rendezvous(const char* name, uint32_t mask, Site site, void* record,
                  CombineFunction combine);

  // Abandons the block. Strings and vectors on the calling fiber's stack are never destroyed.
  [[noreturn]] void Fail(std::string message);

 private:
  // One fiber and what it alone allocates.
  struct Seat {
    BlockRunner* runner = nullptr;
    std::deque<Copy> copies;         // oldest first
    std::deque<size_t> group_sizes;  // of committed groups, oldest first; empty groups count
    std::unique_ptr<Fiber> fiber;
  };
  struct Thread {
    ThreadView view{};
    Seat* seat = nullptr;
    int warp = 0;
    int lane = 0;
    const char* waits_in = nullptr;  // null while it can run
    Site waits_at = Site("", 0);
  };
  struct Warp {
    uint32_t ready = 0;
    uint32_t live = 0;  // lanes that have not returned
    // The rendezvous under way; arrived is 0 when there is none.
    uint32_t arrived = 0;
    uint32_t mask = 0;
    const char* name = nullptr;
    Site site = Site("", 0);
    void* records[kWarpLanes] = {};
    int generation = 0;  // rendezvous completed
    int rotation = 0;    // of the lanes' order, kSeeded
  };
  struct Allocation {
    const void* key;
    void* memory;
    size_t bytes;
  };
  struct Barrier {
    int arrived = 0;
    int count = 0;
    const char* name = nullptr;
    Site site = Site("", 0);
    int generation = 0;
    int results[2] = {0, 0};
  };

  static void SeatMain(void* seat);
  void Prepare(const LaunchShape& shape, const Schedule& schedule, uint64_t block_number);
  void* AllocateShared(const void* key, size_t bytes, size_t alignment);
  void FreeShared();
  void Return();  // the running thread's kernel has returned
  Thread* Next();
  void Park(const char* name, Site site);
  std::string StuckMessage() const;

  Kernel kernel_{};
  Schedule schedule_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<int> warp_order_;
  std::vector<std::unique_ptr<Seat>> seats_;
  std::vector<Allocation> shared_;    // [0]: dynamic
  std::unique_ptr<uint64_t[]> tags_;  // happens-before: 2 of the block, 2 of each warp
  std::unique_ptr<Fiber> os_fiber_;
  Thread* current_ = nullptr;
  int current_warp_ = 0;
  int returned_ = 0;
  Barrier barrier_;
  uint64_t start_tag_ = 0;
  void* end_tag_ = nullptr;
  TrafficBytes traffic_;
  std::string error_;
};

}  // namespace tandem::kernels::emu
