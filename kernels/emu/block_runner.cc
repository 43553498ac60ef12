#include "kernels/emu/block_runner.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tandem::kernels::emu {

constinit thread_local const ThreadView* current_view = nullptr;

namespace {

constinit thread_local BlockRunner* current_runner = nullptr;

std::string Text(Site site) { return absl::StrCat(site.file, ":", site.line); }

bool Same(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }
bool Same(Site a, Site b) { return a.line == b.line && Same(a.file, b.file); }

// SplitMix64.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

}  // namespace

BlockRunner& BlockRunner::Current() { return *current_runner; }

BlockRunner::~BlockRunner() { FreeShared(); }

void BlockRunner::SeatMain(void* argument) {
  auto* seat = static_cast<Seat*>(argument);
  for (;;) {
    // Only what the seat points to: an address of a thread_local must not survive a launch, which
    // may come back to this fiber on another OS thread.
    BlockRunner& runner = *seat->runner;
    Acquire(&runner.start_tag_);
    runner.kernel_.call(runner.kernel_.context);
    runner.Return();
  }
}

void BlockRunner::Prepare(const LaunchShape& shape, const Schedule& schedule,
                          uint64_t block_number) {
  const unsigned threads = shape.threads;
  const int warps = static_cast<int>(threads / kWarpLanes);
  const uint64_t seed = Mix(schedule.seed ^ Mix(block_number));
  threads_.resize(threads);
  warps_.assign(static_cast<size_t>(warps), Warp());
  warp_order_.resize(static_cast<size_t>(warps));
  while (seats_.size() < threads) {
    auto seat = std::make_unique<Seat>();
    seat->runner = this;
    seat->fiber = std::make_unique<Fiber>(&SeatMain, seat.get());
    seats_.push_back(std::move(seat));
  }
  const ThreadView view = {
      .thread_idx = {0, 0, 0},
      .block_idx = {static_cast<unsigned>(block_number % shape.grid.x),
                    static_cast<unsigned>(block_number / shape.grid.x % shape.grid.y),
                    static_cast<unsigned>(block_number / shape.grid.x / shape.grid.y)},
      .block_dim = {threads, 1, 1},
      .grid_dim = {shape.grid.x, shape.grid.y, shape.grid.z}};
  for (unsigned i = 0; i < threads; ++i) {
    // A thread index sits on another fiber in the next block: ThreadSanitizer takes what one fiber
    // does as ordered, and the threads of two blocks are not.
    Seat* seat = seats_[(i + block_number * 61) % threads].get();
    threads_[i] = {.view = view,
                   .seat = seat,
                   .warp = static_cast<int>(i / kWarpLanes),
                   .lane = static_cast<int>(i % kWarpLanes)};
    threads_[i].view.thread_idx.x = i;
  }
  for (int w = 0; w < warps; ++w) {
    warps_[w].ready = warps_[w].live = ~0u;
    warps_[w].rotation = static_cast<int>(Mix(seed + static_cast<uint64_t>(w)) % kWarpLanes);
    warp_order_[w] = schedule.order == Order::kReverse ? warps - 1 - w : w;
  }
  if (schedule.order == Order::kSeeded) {
    for (int w = warps - 1; w > 0; --w) {
      std::swap(warp_order_[w], warp_order_[Mix(seed - static_cast<uint64_t>(w)) % (w + 1)]);
    }
  }
  tags_ = std::make_unique<uint64_t[]>(2 + 2 * warps_.size());
  barrier_ = Barrier();
  current_warp_ = warp_order_[0];
  returned_ = 0;
}

bool BlockRunner::Run(const Kernel& kernel, const LaunchShape& shape, const Schedule& schedule,
                      uint64_t block_number, void* end_tag) {
  kernel_ = kernel;
  schedule_ = schedule;
  end_tag_ = end_tag;
  Prepare(shape, schedule, block_number);
  AllocateShared(nullptr, shape.dynamic_shared_bytes, 128);
  os_fiber_ = std::make_unique<Fiber>();
  Release(&start_tag_);

  current_runner = this;
  current_ = Next();
  current_view = &current_->view;
  Fiber::Switch(*os_fiber_, *current_->seat->fiber);
  // Nothing can run any more.
  current_view = nullptr;
  current_runner = nullptr;
  if (error_.empty() && returned_ < static_cast<int>(threads_.size())) error_ = StuckMessage();
  FreeShared();
  if (error_.empty()) return true;
  // Fibers in the middle of a kernel: what they have done precedes the end of the launch.
  for (const auto& seat : seats_) seat->fiber->ReleaseFor(end_tag, *os_fiber_);
  Acquire(end_tag);
  seats_.clear();
  return false;
}

BlockRunner::Thread* BlockRunner::Next() {
  int w = current_warp_;
  if (warps_[w].ready == 0) {
    const auto found = std::find_if(warp_order_.begin(), warp_order_.end(),
                                    [&](int i) { return warps_[i].ready != 0; });
    if (found == warp_order_.end()) return nullptr;
    w = current_warp_ = *found;
  }
  const uint32_t ready = warps_[w].ready;
  int lane = 0;
  switch (schedule_.order) {
    case Order::kForward:
      lane = std::countr_zero(ready);
      break;
    case Order::kReverse:
      lane = kWarpLanes - 1 - std::countl_zero(ready);
      break;
    case Order::kSeeded: {
      const int rotation = warps_[w].rotation;
      lane = (std::countr_zero(std::rotr(ready, rotation)) + rotation) % kWarpLanes;
      break;
    }
  }
  return &threads_[static_cast<size_t>(w * kWarpLanes + lane)];
}

void BlockRunner::Park(const char* name, Site site) {
  Thread* self = current_;
  self->waits_in = name;
  self->waits_at = site;
  warps_[self->warp].ready &= ~(1u << self->lane);
  current_ = Next();
  current_view = current_ != nullptr ? &current_->view : nullptr;
  Fiber::Switch(*self->seat->fiber, current_ != nullptr ? *current_->seat->fiber : *os_fiber_);
}

void BlockRunner::Fail(std::string message) {
  error_ = std::move(message);
  Thread* self = current_;
  current_ = nullptr;
  Fiber::Switch(*self->seat->fiber, *os_fiber_);
  std::abort();  // an abandoned fiber is never resumed
}

void BlockRunner::Return() {
  Thread& self = *current_;
  Warp& warp = warps_[self.warp];
  std::string message;
  if (!self.seat->copies.empty()) {
    const Copy& copy = self.seat->copies.front();
    message = absl::StrCat(Text(copy.site), ": thread ", self.view.thread_idx.x, " returned with ",
                           self.seat->copies.size(),
                           " asynchronous copies in flight, the oldest issued here");
  } else if (barrier_.arrived > 0) {
    message = absl::StrCat(Text(barrier_.site), ": ", barrier_.arrived, " threads wait in ",
                           barrier_.name, " and thread ", self.view.thread_idx.x,
                           " has returned without it");
  } else if (warp.arrived != 0 && (warp.mask >> self.lane & 1) != 0) {
    message =
        absl::StrCat(Text(warp.site), ": lanes 0x", absl::Hex(warp.arrived), " wait in ", warp.name,
                     " and lane ", self.lane, ", which its mask names, has returned");
  }
  if (!message.empty()) Fail(std::move(message));
  warp.live &= ~(1u << self.lane);
  ++returned_;
  self.seat->group_sizes.clear();
  Release(end_tag_);
  Park(nullptr, Site("", 0));
}

std::string BlockRunner::StuckMessage() const {
  std::map<std::pair<std::string, std::string>, std::pair<int, unsigned>> waiting;
  for (const Thread& thread : threads_) {
    if (thread.waits_in == nullptr) continue;
    auto& [count, first] = waiting[{Text(thread.waits_at), thread.waits_in}];
    if (count++ == 0) first = thread.view.thread_idx.x;
  }
  std::string message;
  for (const auto& [where, who] : waiting) {
    absl::StrAppend(&message, message.empty() ? "" : "; ", where.first, ": ", who.first,
                    " threads wait in ", where.second, ", thread ", who.second, " first");
  }
  return absl::StrCat(message,
                      "; nobody can go on (divergent code around a barrier or collective)");
}

int BlockRunner::BlockBarrier(const char* name, int predicate, Site site) {
  Thread& self = *current_;
  std::string message;
  if (returned_ > 0) {
    message = absl::StrCat(Text(site), ": thread ", self.view.thread_idx.x, " reaches ", name,
                           " after ", returned_, " threads of the block have returned");
  } else if (barrier_.arrived == 0) {
    barrier_.name = name;
    barrier_.site = site;
    barrier_.count = 0;
  } else if (!Same(barrier_.site, site) || !Same(barrier_.name, name)) {
    message = absl::StrCat(Text(site), ": divergent barrier: thread ", self.view.thread_idx.x,
                           " reaches ", name, " while ", barrier_.arrived, " threads wait in ",
                           barrier_.name, " at ", Text(barrier_.site));
  }
  if (!message.empty()) Fail(std::move(message));

  const int parity = barrier_.generation & 1;
  Release(&tags_[parity]);
  barrier_.count += predicate != 0;
  if (++barrier_.arrived < static_cast<int>(threads_.size())) {
    Park(name, site);
  } else {
    barrier_.results[parity] = barrier_.count;
    barrier_.arrived = 0;
    ++barrier_.generation;
    for (Thread& thread : threads_) thread.waits_in = nullptr;
    for (Warp& warp : warps_) warp.ready = ~0u;
  }
  Acquire(&tags_[parity]);
  return barrier_.results[parity];
}

void BlockRunner::Rendezvous(const char* name, uint32_t mask, Site site, void* record,
                             CombineFunction combine) {
  Thread& self = *current_;
  Warp& warp = warps_[self.warp];
  const uint32_t bit = 1u << self.lane;
  std::string message;
  if ((mask & bit) == 0) {
    message = absl::StrCat(Text(site), ": lane ", self.lane, " calls ", name, " with mask 0x",
                           absl::Hex(mask), ", which does not name it");
  } else if ((mask & ~warp.live) != 0) {
    message =
        absl::StrCat(Text(site), ": ", name, " with mask 0x", absl::Hex(mask),
                     " waits for lanes 0x", absl::Hex(mask & ~warp.live), ", which have returned");
  } else if (warp.arrived == 0) {
    warp.name = name;
    warp.mask = mask;
    warp.site = site;
  } else if (warp.mask != mask || !Same(warp.site, site) || !Same(warp.name, name)) {
    message = absl::StrCat(Text(site), ": divergent warp: lane ", self.lane, " calls ", name,
                           " with mask 0x", absl::Hex(mask), " while lanes 0x",
                           absl::Hex(warp.arrived), " wait in ", warp.name, " at ", Text(warp.site),
                           " with mask 0x", absl::Hex(warp.mask));
  }
  if (!message.empty()) Fail(std::move(message));

  warp.records[self.lane] = record;
  warp.arrived |= bit;
  if (warp.arrived != mask) {
    Park(name, site);
    return;
  }
  if (combine != nullptr) combine(warp.records, mask);
  warp.arrived = 0;
  ++warp.generation;
  warp.ready |= mask;
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if ((mask >> lane & 1) != 0) threads_[self.warp * kWarpLanes + lane].waits_in = nullptr;
  }
}

void BlockRunner::WarpBarrier(uint32_t mask, Site site) {
  const int warp = current_->warp;
  uint64_t* tag = &tags_[2 + 2 * warp + (warps_[warp].generation & 1)];
  Release(tag);
  Rendezvous("__syncwarp", mask, site, nullptr, nullptr);
  Acquire(tag);
}

void BlockRunner::IssueCopy(const Copy& copy) {
  if (!IsShared(copy.dst, static_cast<size_t>(copy.bytes))) {
    FailAt(copy.site, "an asynchronous copy writes outside shared memory");
  }
  current_->seat->copies.push_back(copy);
}

void BlockRunner::CommitCopies() {
  Seat& seat = *current_->seat;
  size_t committed = 0;
  for (const size_t size : seat.group_sizes) committed += size;
  seat.group_sizes.push_back(seat.copies.size() - committed);
}

bool BlockRunner::TakeCopy(int newest_groups_left, Copy* copy) {
  Seat& seat = *current_->seat;
  while (seat.group_sizes.size() > static_cast<size_t>(newest_groups_left)) {
    if (seat.group_sizes.front() == 0) {
      seat.group_sizes.pop_front();
      continue;
    }
    --seat.group_sizes.front();
    *copy = seat.copies.front();
    seat.copies.pop_front();
    return true;
  }
  return false;
}

void* BlockRunner::AllocateShared(const void* key, size_t bytes, size_t alignment) {
  const UntouchedMemory untouched;
  void* memory = nullptr;
  if (posix_memalign(&memory, std::max(alignment, sizeof(void*)), bytes) != 0) std::abort();
  std::memset(memory, 0xff, bytes);
  shared_.push_back({key, memory, bytes});
  return memory;
}

void BlockRunner::FreeShared() {
  const UntouchedMemory untouched;
  for (const Allocation& allocation : shared_) std::free(allocation.memory);
  shared_.clear();
}

void* BlockRunner::StaticShared(const void* key, size_t bytes, size_t alignment) {
  for (const Allocation& allocation : shared_) {
    if (allocation.key == key) return allocation.memory;
  }
  return AllocateShared(key, bytes, alignment);
}

bool BlockRunner::IsShared(const void* begin, size_t bytes) const {
  const auto at = reinterpret_cast<uintptr_t>(begin);
  return std::any_of(shared_.begin(), shared_.end(), [&](const Allocation& allocation) {
    const auto first = reinterpret_cast<uintptr_t>(allocation.memory);
    return at >= first && at + bytes <= first + allocation.bytes;
  });
}

// What kernels call (thread.h).

int BlockBarrier(const char* name, int predicate, Site site) {
  return BlockRunner::Current().BlockBarrier(name, predicate, site);
}

void WarpBarrier(uint32_t mask, Site site) { BlockRunner::Current().WarpBarrier(mask, site); }

void IssueCopy(const Copy& copy) { BlockRunner::Current().IssueCopy(copy); }
void CommitCopies() { BlockRunner::Current().CommitCopies(); }
bool TakeCopy(int newest_groups_left, Copy* copy) {
  return BlockRunner::Current().TakeCopy(newest_groups_left, copy);
}

void* StaticShared(const void* key, size_t bytes, size_t alignment) {
  return BlockRunner::Current().StaticShared(key, bytes, alignment);
}
void* DynamicShared() { return BlockRunner::Current().DynamicShared(); }

void CountRead(size_t bytes) { BlockRunner::Current().traffic().read += bytes; }
void CountWrite(size_t bytes) { BlockRunner::Current().traffic().written += bytes; }

void FailAt(Site site, const char* message) {
  std::string text = absl::StrCat(Text(site), ": ", message);
  BlockRunner::Current().Fail(std::move(text));
}

}  // namespace tandem::kernels::emu
