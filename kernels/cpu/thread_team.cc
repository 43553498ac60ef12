#include "kernels/cpu/thread_team.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

namespace tandem::kernels {
namespace {

// Longer than the gaps between a step's operations, far shorter than a scheduler slice.
constexpr std::chrono::microseconds kSpin{50};

// A third of the weight of threads that have not stood back.
constexpr int kNice = 5;

enum State : uint32_t {
  kIdle,    // no work; set by the worker when through, or by the caller to take the work back
  kPosted,  // fn_ and context_ are valid; set by the caller
  kTaken,   // the worker is in fn_
  kStop,    // leave; set by the destructor
};

// True once `word` differs from `value`; false when kSpin has passed.
bool SpinWhile(const std::atomic<uint32_t>& word, uint32_t value) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (word.load(std::memory_order_acquire) != value) return true;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

void PinCurrentThread(int cpu) {
  cpu_set_t* set = CPU_ALLOC(cpu + 1);
  const size_t bytes = CPU_ALLOC_SIZE(cpu + 1);
  CPU_ZERO_S(bytes, set);
  CPU_SET_S(cpu, bytes, set);
  // Failing means the CPU left the mask since it was read; running unpinned is then right.
  (void)pthread_setaffinity_np(pthread_self(), bytes, set);
  CPU_FREE(set);
}

}  // namespace

void LowerPriority() {
  // Of this thread alone: Linux has no nice value of a process.
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
}

struct alignas(64) ThreadTeam::Worker {
  std::atomic<uint32_t> state{kIdle};
  std::thread thread;
};

ThreadTeam::ThreadTeam(int threads, std::span<const int> cpus) {
  const bool fits = threads <= static_cast<int>(cpus.size());
  spins_ = fits;
  for (int i = 1; i < threads; ++i) workers_.push_back(std::make_unique<Worker>());

  // Signals belong to the process's own threads: workers start with all of them blocked.
  sigset_t all, inherited;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &inherited);
  for (int i = 1; i < threads; ++i) {
    Worker& worker = *workers_[i - 1];
    worker.thread = std::thread([this, &worker, i, cpu = fits ? cpus[i] : -1] {
      char name[16];
      std::snprintf(name, sizeof(name), "cpu-team-%d", i);
      pthread_setname_np(pthread_self(), name);
      if (cpu >= 0) PinCurrentThread(cpu);
      LowerPriority();
      Work(worker, i);
    });
  }
  pthread_sigmask(SIG_SETMASK, &inherited, nullptr);
}

ThreadTeam::~ThreadTeam() {
  for (const std::unique_ptr<Worker>& worker : workers_) {
    worker->state.store(kStop);
    worker->state.notify_all();
  }
  for (const std::unique_ptr<Worker>& worker : workers_) worker->thread.join();
}

void ThreadTeam::Work(Worker& worker, int thread) {
  for (;;) {
    if (!spins_ || !SpinWhile(worker.state, kIdle)) worker.state.wait(kIdle);
    uint32_t expected = kPosted;
    if (worker.state.compare_exchange_strong(expected, kTaken)) {
      fn_(context_, thread, threads());
      worker.state.store(kIdle);
      worker.state.notify_all();
    } else if (expected == kStop) {
      return;
    }
  }
}

void ThreadTeam::Post(Function fn, void* context) {
  fn_ = fn;
  context_ = context;
  for (const std::unique_ptr<Worker>& worker : workers_) {
    worker->state.store(kPosted);
    worker->state.notify_all();
  }
}

void ThreadTeam::Await(Worker& worker) {
  for (uint32_t state; (state = worker.state.load()) != kIdle;) {
    if (!spins_ || !SpinWhile(worker.state, state)) worker.state.wait(state);
  }
}

void ThreadTeam::Run(Function fn, void* context) {
  Post(fn, context);
  fn(context, 0, threads());
  for (const std::unique_ptr<Worker>& worker : workers_) Await(*worker);
}

void ThreadTeam::RunOnFree(Function fn, void* context) {
  Post(fn, context);
  fn(context, 0, threads());
  // Take back what nobody has started before waiting for those who have.
  for (const std::unique_ptr<Worker>& worker : workers_) {
    uint32_t expected = kPosted;
    worker->state.compare_exchange_strong(expected, kIdle);
  }
  for (const std::unique_ptr<Worker>& worker : workers_) Await(*worker);
}

}  // namespace tandem::kernels
