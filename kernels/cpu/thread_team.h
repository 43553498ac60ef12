// A fixed team of threads that share one piece of work at a time.
//
// The caller is thread 0. The others spin for work for about 50 us and then sleep, so a step's
// operations follow each other without system calls and an idle team costs nothing. A team with
// more threads than CPUs neither pins nor spins.
//
// Threads   Run and its relatives: one caller at a time, not from inside the work itself.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <type_traits>
#include <vector>

namespace tandem::kernels {

// Lets the calling thread stand back for the others of the process, as the team's own threads do: a
// thread that answers a client has little to do, and somebody waits for it. For the thread that
// will call Run.
void LowerPriority();

class ThreadTeam {
 public:
  using Function = void (*)(void* context, int thread, int threads);

  // Thread i > 0 is pinned to cpus[i]. The caller is not: threads it creates would inherit that.
  ThreadTeam(int threads, std::span<const int> cpus);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // fn(context, thread, threads) once on every thread; returns when all are through.
  void Run(Function fn, void* context);

  // fn on the caller and on each thread that wakes before the caller is through: for work that fn
  // takes from a shared counter. A thread that has lost its CPU then holds nobody up.
  void RunOnFree(Function fn, void* context);

  // body(thread, begin, end) over [0, count) in pieces of `piece`, handed out in ascending order to
  // whichever thread is free. One piece, or none, runs on the caller alone.
  template <typename Body>
  void ForEach(int64_t count, int64_t piece, Body&& body) {
    if (count <= piece || workers_.empty()) {
      if (count > 0) body(0, int64_t{0}, count);
      return;
    }
    struct Work {
      std::remove_reference_t<Body>* body;
      int64_t count;
      int64_t piece;
      std::atomic<int64_t> next{0};
    };
    Work work{&body, count, piece};
    RunOnFree(
        [](void* context, int thread, int) {
          Work& work = *static_cast<Work*>(context);
          for (;;) {
            const int64_t begin = work.next.fetch_add(work.piece, std::memory_order_relaxed);
            if (begin >= work.count) return;
            (*work.body)(thread, begin, std::min(begin + work.piece, work.count));
          }
        },
        &work);
  }

  // The same in runs that shrink from half a thread's share to 1, for bodies that gain from
  // following indices; all on the caller when `alone`.
  template <typename Body>
  void ForRuns(int64_t count, bool alone, Body&& body) {
    if (alone || count <= 1 || workers_.empty()) {
      if (count > 0) body(0, int64_t{0}, count);
      return;
    }
    struct Work {
      std::remove_reference_t<Body>* body;
      int64_t count;
      std::atomic<int64_t> next{0};
    };
    Work work{&body, count};
    RunOnFree(
        [](void* context, int thread, int threads) {
          Work& work = *static_cast<Work*>(context);
          int64_t begin = work.next.load(std::memory_order_relaxed);
          while (begin < work.count) {
            const int64_t end = begin + std::max<int64_t>(1, (work.count - begin) / (2 * threads));
            if (!work.next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
            (*work.body)(thread, begin, end);
            begin = work.next.load(std::memory_order_relaxed);
          }
        },
        &work);
  }

 private:
  struct Worker;

  void Post(Function fn, void* context);
  void Await(Worker& worker);
  void Work(Worker& worker, int thread);

  std::vector<std::unique_ptr<Worker>> workers_;
  bool spins_ = true;
  Function fn_ = nullptr;    // written while no worker holds work
  void* context_ = nullptr;  // as fn_
};

}  // namespace tandem::kernels
