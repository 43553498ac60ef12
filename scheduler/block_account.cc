#include "scheduler/block_account.h"

#include <cstddef>

namespace tandem::scheduler {

Sharing::Sharing(const PlanInput& in)
    : own(in.seated.size()), held(in.seated.size()), wanted(in.seated.size() + in.waiting.size()) {
  for (size_t seq = 0; seq < in.seated.size(); ++seq) {
    for (int g = 0; g < engine::kNumKvGroups; ++g) own[seq][g] = in.seated[seq].blocks[g].held;
  }
  for (size_t i = 0; i < in.shared.size(); ++i) {
    const SharedBlocks& shared = in.shared[i];
    for (const int seq : shared.holders) {
      own[seq][shared.group] -= shared.blocks;
      held[seq].push_back(static_cast<int>(i));
    }
    for (const int seq : shared.takers) wanted[seq].push_back(static_cast<int>(i));
  }
}

BlockAccount::BlockAccount(const PlanInput& in, const Sharing& sharing)
    : in_(&in), sharing_(&sharing) {
  for (int g = 0; g < engine::kNumKvGroups; ++g) free_[g] = in.free_blocks[g];
  holders_.reserve(in.shared.size());
  for (const SharedBlocks& shared : in.shared) {
    holders_.push_back(static_cast<int>(shared.holders.size()));
  }
}

Blocks BlockAccount::FreedBy(int seq) const {
  Blocks freed = sharing_->own[seq];
  for (const int i : sharing_->held[seq]) {
    if (holders_[i] == 1) freed[in_->shared[i].group] += in_->shared[i].blocks;
  }
  return freed;
}

void BlockAccount::Leave(int seq) {
  const Blocks freed = FreedBy(seq);
  for (int g = 0; g < engine::kNumKvGroups; ++g) free_[g] += freed[g];
  for (const int i : sharing_->held[seq]) --holders_[i];
}

Blocks BlockAccount::CostOfReuse(int seq) const {
  Blocks cost = {};
  for (const int i : sharing_->wanted[seq]) {
    if (holders_[i] == 0) cost[in_->shared[i].group] += in_->shared[i].blocks;
  }
  return cost;
}

void BlockAccount::TakeReuse(int seq) {
  const Blocks cost = CostOfReuse(seq);
  for (int g = 0; g < engine::kNumKvGroups; ++g) free_[g] -= cost[g];
  for (const int i : sharing_->wanted[seq]) ++holders_[i];
}

}  // namespace tandem::scheduler
