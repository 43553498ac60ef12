// How many blocks are free while a plan grows.
//
// A block that several sequences hold becomes free when the last of them leaves, and one that
// nobody holds, but that can be reused, stops being free when the first takes it. So the number is
// exact whoever leaves, comes or takes in whatever order.
//
// Not here  which sequence does so (plan_seats.h, plan_step.h); the blocks themselves (kvcache/).
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "engine/step.h"
#include "scheduler/plan_step.h"

namespace tandem::scheduler {

using Blocks = std::array<int64_t, engine::kNumKvGroups>;

// PlanInput::shared by sequence; fixed while a plan grows.
struct Sharing {
  explicit Sharing(const PlanInput& in);

  std::vector<Blocks> own;               // [seq] blocks that nobody else holds or would take
  std::vector<std::vector<int>> held;    // [seq] indices into PlanInput::shared
  std::vector<std::vector<int>> wanted;  // [seq] likewise, for its Reuse::tokens
};

// A value: copies of it try things out. `in` and `sharing` must outlive it.
class BlockAccount {
 public:
  BlockAccount(const PlanInput& in, const Sharing& sharing);

  const Blocks& free() const { return free_; }
  void Add(int group, int64_t blocks) { free_[group] += blocks; }

  // What a seated sequence gives back by leaving now: blocks whose last holder it is.
  Blocks FreedBy(int seq) const;
  void Leave(int seq);
  // What a sequence takes out of the free ones when it reuses what it can.
  Blocks CostOfReuse(int seq) const;
  void TakeReuse(int seq);

 private:
  const PlanInput* in_;
  const Sharing* sharing_;
  Blocks free_ = {};
  std::vector<int> holders_;  // by PlanInput::shared
};

}  // namespace tandem::scheduler
