// The last steps with everything that decided them, for replay.
//
// Threads   Add from the scheduler's, Snapshot from any.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <utility>
#include <vector>

#include "scheduler/plan_step.h"

namespace tandem::scheduler {

// PlanStep(input) == plan, always.
struct StepRecord {
  int64_t step = 0;  // from 1
  PlanInput input;
  StepPlan plan;
  int64_t duration_us = 0;
};

class StepLog {
 public:
  explicit StepLog(int size) : size_(size) {}

  void Add(StepRecord record) {
    const std::lock_guard lock(mutex_);
    records_.push_back(std::move(record));
    if (records_.size() > static_cast<size_t>(size_)) records_.pop_front();
  }

  std::vector<StepRecord> Snapshot() const {
    const std::lock_guard lock(mutex_);
    return {records_.begin(), records_.end()};
  }

 private:
  const int size_;
  mutable std::mutex mutex_;
  std::deque<StepRecord> records_;  // oldest first
};

}  // namespace tandem::scheduler
