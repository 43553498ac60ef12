#include "kernels/emu/stream.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tandem::kernels::emu {
namespace {

constexpr unsigned kMaxThreads = 1024;

std::string ShapeError(const LaunchShape& shape) {
  const uint64_t blocks = uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z;
  if (blocks == 0) return "launch of no blocks";
  if (shape.threads == 0 || shape.threads > kMaxThreads || shape.threads % kWarpLanes != 0) {
    return absl::StrCat("launch of ", shape.threads,
                        " threads per block; use a multiple of 32 up to ", kMaxThreads);
  }
  if (shape.dynamic_shared_bytes > kMaxSharedBytes) {
    return absl::StrCat("launch with ", shape.dynamic_shared_bytes,
                        " bytes of shared memory; a block has at most ", kMaxSharedBytes);
  }
  return "";
}

// The i-th block to start. Seeded: a step coprime to `blocks` visits each once.
uint64_t BlockAt(const Schedule& schedule, uint64_t i, uint64_t blocks) {
  switch (schedule.order) {
    case Order::kForward:
      return i;
    case Order::kReverse:
      return blocks - 1 - i;
    case Order::kSeeded:
      break;
  }
  uint64_t step = schedule.seed % blocks + 1;
  const auto gcd = [](uint64_t a, uint64_t b) {
    while (b != 0) a = std::exchange(b, a % b);
    return a;
  };
  while (gcd(step, blocks) != 1) ++step;
  return (schedule.seed + i * step) % blocks;
}

}  // namespace

Stream::Stream(Schedule schedule, int os_threads, Runs runs) : schedule_(schedule), runs_(runs) {
  for (int i = 0; i < std::max(os_threads, 1); ++i) {
    runners_.push_back(std::make_unique<BlockRunner>());
  }
}

Stream::~Stream() = default;

void Stream::Give(std::function<void(Stream*)> work) {
  if (capture_ != nullptr) {
    capture_->work.push_back(std::move(work));
    return;
  }
  ++given_;
  if (runs_ == Runs::kAtOnce) {
    work(this);
  } else {
    waiting_.push_back(std::move(work));
  }
}

void Stream::Await(uint64_t given) {
  while (!waiting_.empty() && given_ - waiting_.size() < given) {
    const std::function<void(Stream*)> work = std::move(waiting_.front());
    waiting_.pop_front();
    work(this);
  }
}

void Stream::Launch(const Kernel& kernel, const LaunchShape& shape) {
  if (error_.empty()) error_ = ShapeError(shape);
  if (!error_.empty()) return;
  if (runs_ == Runs::kAtOnce && capture_ == nullptr) {
    ++given_;
    Run(kernel, shape);
    return;
  }
  Give([call = kernel.call, context = kernel.copy(kernel.context), shape](Stream* stream) {
    if (stream->error_.empty()) stream->Run({call, context.get(), nullptr}, shape);
  });
}

void Stream::Copy(void* dst, const void* src, size_t bytes) {
  Give([=](Stream* stream) {
    if (stream->error_.empty()) std::memcpy(dst, src, bytes);
  });
}

void Stream::Fill(void* dst, unsigned char value, size_t bytes) {
  Give([=](Stream* stream) {
    if (stream->error_.empty()) std::memset(dst, value, bytes);
  });
}

void Stream::LaunchGraph(std::shared_ptr<const Graph> graph) {
  Give([graph = std::move(graph)](Stream* stream) {
    for (const auto& work : graph->work) work(stream);
  });
}

void Stream::Mark(std::function<void()> run) {
  Give([run = std::move(run)](Stream*) { run(); });
}

void Stream::BeginCapture() { capture_ = std::make_shared<Graph>(); }

std::shared_ptr<const Graph> Stream::EndCapture() { return std::exchange(capture_, nullptr); }

void Stream::Run(const Kernel& kernel, const LaunchShape& shape) {
  const uint64_t blocks = uint64_t{shape.grid.x} * shape.grid.y * shape.grid.z;
  std::atomic<uint64_t> next{0};
  std::atomic<BlockRunner*> failed{nullptr};
  uint64_t end_tag = 0;
  const auto run = [&](BlockRunner* runner) {
    for (uint64_t i; failed.load() == nullptr && (i = next.fetch_add(1)) < blocks;) {
      if (!runner->Run(kernel, shape, schedule_, BlockAt(schedule_, i, blocks), &end_tag)) {
        BlockRunner* none = nullptr;
        failed.compare_exchange_strong(none, runner);
      }
    }
  };
  std::vector<std::thread> threads;
  const uint64_t useful = std::min<uint64_t>(runners_.size(), blocks);
  for (uint64_t i = 1; i < useful; ++i) threads.emplace_back(run, runners_[i].get());
  run(runners_[0].get());
  for (std::thread& thread : threads) thread.join();
  Acquire(&end_tag);
  if (BlockRunner* runner = failed.load(); runner != nullptr) {
    error_ = runner->error();
    for (auto& each : runners_) each = std::make_unique<BlockRunner>();
  }
}

std::string Stream::TakeError() { return std::exchange(error_, std::string()); }

TrafficBytes Stream::TakeTraffic() {
  TrafficBytes sum;
  for (const auto& runner : runners_) {
    const TrafficBytes traffic = std::exchange(runner->traffic(), TrafficBytes());
    sum.read += traffic.read;
    sum.written += traffic.written;
  }
  return sum;
}

}  // namespace tandem::kernels::emu
