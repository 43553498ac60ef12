// What sequences have in common: the keys of their blocks, which rows of one another can serve,
// and what is published for those to come.
//
// A full block is found by its key: a hash over all tokens up to its end, the request's salt, the
// tenant where tenants do not share, and the formats. The last rows of a prompt rarely fill a
// block; they are looked for in the blocks of the sequences that are seated, and copied.
//
// Source    turboquant.md 3.7 (sharing, copy on write), mtp.md 2.7 and 3.7 (what may be published).
// Not here  what a window needs (kvcache/prefix.h), who takes what when (plan_step.h).
// Threads   scheduler thread only.
#pragma once

#include <array>
#include <map>
#include <span>

#include "kvcache/block_key.h"
#include "kvcache/block_pool.h"
#include "kvcache/prefix.h"
#include "scheduler/config.h"
#include "scheduler/plan_step.h"
#include "scheduler/sequence.h"

namespace tandem::scheduler {

using KvPools = std::array<kvcache::BlockPool, engine::kNumKvGroups>;

// Numbers for the blocks that sequences compute next, in one plan.
using BlockNumbers = std::map<kvcache::BlockKey, int>;

class PrefixReuse {
 public:
  // `pools` must outlive it.
  PrefixReuse(const SchedulerConfig& config, const ModelLimits& limits, KvPools& pools);

  // RequestState::root_key of a request that comes.
  kvcache::BlockKey RootKeyOf(const Request& request) const;

  // Fills `state`: reuse, computes, awaits. For a sequence that has rows of known tokens to run,
  // more than its newest one.
  //   seated  everybody who has a seat
  void Offer(Sequence& sequence, std::span<Sequence* const> seated, BlockNumbers& numbers,
             SeqState& state);

  // Takes the blocks of its first `tokens` tokens, a Reuse::tokens, instead of those it has.
  void Adopt(Sequence& sequence, int tokens);

  // Lets others find its blocks that are full of rows in the cache. All tokens of these must have
  // been emitted, or belong to the prompt.
  void Publish(Sequence& sequence);

 private:
  bool Reads(const Sequence& sequence) const;
  bool Writes(const Sequence& sequence) const;
  // The most rows that it may take over.
  int MaxTokens(const Sequence& sequence) const;
  // Computes the keys of its first `blocks` blocks, which must be known.
  void ExtendKeys(Sequence& sequence, int blocks) const;
  const kvcache::BlockKey& ParentOf(const Sequence& sequence, int block) const;
  // Tokens of its longest prefix that can be had for references; 0 when these are no more than it
  // has.
  int FullTokens(const Sequence& sequence) const;
  // Rows of block `block`, up to position `end`, that `other` has as well.
  int RowsToCopy(const Sequence& sequence, int block, int end, const Sequence& other) const;
  void FindCopy(const Sequence& sequence, int kv_tokens, std::span<Sequence* const> seated,
                Reuse& reuse) const;

  const SchedulerConfig config_;
  const ModelLimits limits_;
  KvPools& pools_;
  const kvcache::PrefixPools prefix_pools_;
};

}  // namespace tandem::scheduler
