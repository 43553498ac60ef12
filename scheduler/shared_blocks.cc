#include "scheduler/shared_blocks.h"

#include <algorithm>
#include <cstdint>
#include <map>

namespace tandem::scheduler {
namespace {

// Sorts the blocks of one group into sets of equal holders and takers, sequence by sequence: each
// splits the sets of those before it in two.
class Sorter {
 public:
  explicit Sorter(const kvcache::BlockPool& pool)
      : pool_(pool), set_of_(pool.num_blocks(), kNone) {}

  void Takes(int seq, std::span<const kvcache::BlockKey> keys) {
    Begin(seq, /*takes=*/true);
    for (const kvcache::BlockKey& key : keys) Move(pool_.Find(key));
  }

  // After everybody who takes: a block that only `seq` holds and nobody takes is left out.
  void Holds(int seq, const kvcache::BlockTable& table) {
    Begin(seq, /*takes=*/false);
    for (size_t i = table.first_held; i < table.blocks.size(); ++i) {
      const int32_t block = table.blocks[i];
      if (set_of_[block] != kNone || pool_.references(block) > 1) Move(block);
    }
  }

  void AddTo(std::vector<SharedBlocks>& shared, int group) const {
    for (const Set& set : sets_) {
      if (set.blocks == 0) continue;
      SharedBlocks out = {.group = group, .blocks = set.blocks, .holders = {}, .takers = {}};
      for (const Set* member = &set;; member = &sets_[member->parent]) {
        (member->takes ? out.takers : out.holders).push_back(member->seq);
        if (member->parent == kNone) break;
      }
      std::reverse(out.holders.begin(), out.holders.end());
      std::reverse(out.takers.begin(), out.takers.end());
      shared.push_back(std::move(out));
    }
  }

 private:
  static constexpr int kNone = -1;
  // The members of `parent` and one more.
  struct Set {
    int parent = kNone;
    int seq = 0;
    bool takes = false;
    int blocks = 0;
  };

  void Begin(int seq, bool takes) {
    seq_ = seq;
    takes_ = takes;
    split_.clear();
  }

  void Move(int32_t block) {
    int& set = set_of_[block];
    const auto [it, is_new] = split_.try_emplace(set, static_cast<int>(sets_.size()));
    if (is_new) sets_.push_back({.parent = set, .seq = seq_, .takes = takes_});
    if (set != kNone) --sets_[set].blocks;
    set = it->second;
    ++sets_[set].blocks;
  }

  const kvcache::BlockPool& pool_;
  std::vector<int> set_of_;  // [blocks]
  std::vector<Set> sets_;
  int seq_ = 0;  // that is being sorted in
  bool takes_ = false;
  std::map<int, int> split_;  // by set: the one that its blocks of seq_ go to
};

}  // namespace

std::vector<SharedBlocks> SharedBlocksOf(const PlanInput& states,
                                         std::span<Sequence* const> sequences,
                                         const KvPools& pools) {
  const ModelLimits& limits = states.limits;
  const auto num_seated = static_cast<int>(states.seated.size());
  std::vector<SharedBlocks> shared;
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (limits.num_blocks[g] == 0) continue;
    Sorter sorter(pools[g]);
    for (int seq = 0; seq < static_cast<int>(sequences.size()); ++seq) {
      const SeqState& state =
          seq < num_seated ? states.seated[seq] : states.waiting[seq - num_seated];
      const int tokens = state.reuse.tokens;
      if (tokens == 0) continue;
      const int unseen = g == engine::kSliding ? std::max(0, tokens - limits.window + 1) : 0;
      const int first = unseen / limits.block_tokens;
      sorter.Takes(seq, std::span<const kvcache::BlockKey>(sequences[seq]->keys)
                            .subspan(first, tokens / limits.block_tokens - first));
    }
    for (int seq = 0; seq < num_seated; ++seq) sorter.Holds(seq, sequences[seq]->tables[g]);
    sorter.AddTo(shared, g);
  }
  return shared;
}

}  // namespace tandem::scheduler
