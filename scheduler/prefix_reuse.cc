#include "scheduler/prefix_reuse.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tandem::scheduler {
namespace {

kvcache::PrefixPools PrefixPoolsOf(const ModelLimits& limits, KvPools& pools) {
  const auto pool_of = [&](int group) {
    return limits.num_blocks[group] > 0 ? &pools[group] : nullptr;
  };
  return {.sliding = pool_of(engine::kSliding),
          .full = pool_of(engine::kFull),
          .block_tokens = limits.block_tokens,
          .window = limits.window};
}

// Tokens first..end-1.
std::vector<int32_t> TokensOf(const Sequence& sequence, int first, int end) {
  std::vector<int32_t> tokens;
  tokens.reserve(end - first);
  for (int position = first; position < end; ++position) {
    tokens.push_back(TokenAt(sequence, position));
  }
  return tokens;
}

}  // namespace

PrefixReuse::PrefixReuse(const SchedulerConfig& config, const ModelLimits& limits, KvPools& pools)
    : config_(config),
      limits_(limits),
      pools_(pools),
      prefix_pools_(PrefixPoolsOf(limits, pools)) {}

kvcache::BlockKey PrefixReuse::RootKeyOf(const Request& request) const {
  const std::string& salt = request.prefix_cache.salt;
  if (!config_.prefix_cache_per_tenant) return kvcache::RootKey(salt, limits_.kv_formats);
  return kvcache::RootKey(absl::StrCat(request.tenant.size(), ":", request.tenant, salt),
                          limits_.kv_formats);
}

bool PrefixReuse::Reads(const Sequence& sequence) const {
  return config_.prefix_cache && sequence.request->request.prefix_cache.read;
}

bool PrefixReuse::Writes(const Sequence& sequence) const {
  return config_.prefix_cache && sequence.request->request.prefix_cache.write;
}

int PrefixReuse::MaxTokens(const Sequence& sequence) const {
  // The last known token always runs: its row draws the next one.
  const int known = KnownTokens(sequence) - 1;
  const RequestState& state = *sequence.request;
  const bool scores = state.request.prompt_logprobs.enabled && sequence.choice == 0 &&
                      state.next_scored < state.prompt_tokens();
  return scores ? std::min(known, state.next_scored - 1) : known;
}

void PrefixReuse::ExtendKeys(Sequence& sequence, int blocks) const {
  std::vector<kvcache::BlockKey>& keys = sequence.keys;
  if (static_cast<int>(keys.size()) >= blocks) return;
  const int of_prompt = sequence.request->prompt_tokens() / limits_.block_tokens;
  Sequence& first = sequence.request->choices.front();
  if (static_cast<int>(keys.size()) < of_prompt && sequence.choice != 0) {
    ExtendKeys(first, of_prompt);  // once for all choices
    keys.assign(first.keys.begin(), first.keys.begin() + of_prompt);
  }
  for (int block = static_cast<int>(keys.size()); block < blocks; ++block) {
    const int begin = block * limits_.block_tokens;
    keys.push_back(kvcache::ChildKey(ParentOf(sequence, block),
                                     TokensOf(sequence, begin, begin + limits_.block_tokens)));
  }
}

const kvcache::BlockKey& PrefixReuse::ParentOf(const Sequence& sequence, int block) const {
  return block == 0 ? sequence.request->root_key : sequence.keys[block - 1];
}

int PrefixReuse::FullTokens(const Sequence& sequence) const {
  const auto next = static_cast<size_t>(sequence.kv_tokens / limits_.block_tokens);
  const kvcache::BlockPool* full = prefix_pools_.full;
  if (full != nullptr && (next >= sequence.keys.size() || full->Find(sequence.keys[next]) < 0)) {
    return 0;  // no need to look at the whole chain
  }
  return kvcache::FindPrefix(prefix_pools_, sequence.keys, MaxTokens(sequence)).tokens;
}

int PrefixReuse::RowsToCopy(const Sequence& sequence, int block, int end,
                            const Sequence& other) const {
  const int begin = block * limits_.block_tokens;
  end = std::min({end, begin + limits_.block_tokens, other.kv_tokens});
  if (end <= begin || static_cast<int>(other.keys.size()) < block ||
      ParentOf(other, block) != ParentOf(sequence, block)) {
    return 0;
  }
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (limits_.num_blocks[g] > 0 && block < other.tables[g].first_held) return 0;
  }
  int rows = 0;
  while (begin + rows < end && TokenAt(other, begin + rows) == TokenAt(sequence, begin + rows)) {
    ++rows;
  }
  return rows;
}

// The best of the seated sequences that have rows of the block at `kv_tokens`.
void PrefixReuse::FindCopy(const Sequence& sequence, int kv_tokens,
                           std::span<Sequence* const> seated, Reuse& reuse) const {
  const int block = kv_tokens / limits_.block_tokens;
  const int end = MaxTokens(sequence);
  if (kv_tokens >= end) return;
  int most = kv_tokens;
  for (size_t i = 0; i < seated.size() && most < end; ++i) {
    const Sequence& other = *seated[i];
    if (&other == &sequence || !Writes(other)) continue;
    const int copied_to = block * limits_.block_tokens + RowsToCopy(sequence, block, end, other);
    if (copied_to <= most) continue;
    most = copied_to;
    reuse.copied_to = copied_to;
    reuse.copy_seq = static_cast<int>(i);
  }
}

void PrefixReuse::Offer(Sequence& sequence, std::span<Sequence* const> seated,
                        BlockNumbers& numbers, SeqState& state) {
  if (!Reads(sequence) && !Writes(sequence)) return;
  const int block_tokens = limits_.block_tokens;
  const int known = KnownTokens(sequence);
  ExtendKeys(sequence, known / block_tokens);
  int kv_tokens = sequence.kv_tokens;
  if (Reads(sequence)) {
    const int hit_tokens = FullTokens(sequence);
    if (hit_tokens > kv_tokens) kv_tokens = state.reuse.tokens = hit_tokens;
    FindCopy(sequence, kv_tokens, seated, state.reuse);
  }
  // The block that it computes next, by its key: of all known tokens in it when it does not get
  // full.
  const int block = kv_tokens / block_tokens;
  const kvcache::BlockKey key =
      block < known / block_tokens
          ? sequence.keys[block]
          : kvcache::ChildKey(ParentOf(sequence, block),
                              TokensOf(sequence, block * block_tokens, known));
  const int number = numbers.try_emplace(key, static_cast<int>(numbers.size())).first->second;
  if (Writes(sequence)) state.computes = number;
  const RequestState& request = *sequence.request;
  const bool hurried = request.request.reject_if_queued && !request.started;
  if (Reads(sequence) && !hurried && kv_tokens < MaxTokens(sequence)) state.awaits = number;
}

void PrefixReuse::Adopt(Sequence& sequence, int tokens) {
  std::array<kvcache::BlockTable, engine::kNumKvGroups> tables;
  kvcache::TakePrefix(prefix_pools_, sequence.keys, tokens, &tables[engine::kSliding],
                      &tables[engine::kFull]);
  std::swap(sequence.tables, tables);
  for (int g = 0; g < engine::kNumKvGroups; ++g) kvcache::Free(tables[g], pools_[g]);
  sequence.published_blocks = tokens / limits_.block_tokens;
}

void PrefixReuse::Publish(Sequence& sequence) {
  const int full = sequence.kv_tokens / limits_.block_tokens;
  if (!Writes(sequence) || full <= sequence.published_blocks) return;
  ExtendKeys(sequence, full);
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    if (limits_.num_blocks[g] == 0) continue;
    const kvcache::BlockTable& table = sequence.tables[g];
    for (int i = std::max(sequence.published_blocks, table.first_held); i < full; ++i) {
      pools_[g].Publish(table.blocks[i], sequence.keys[i]);
    }
  }
  sequence.published_blocks = full;
}

}  // namespace tandem::scheduler
