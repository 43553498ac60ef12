// Sequences that come, grow, guess, fork, publish and go, on pools that are too small for them;
// each operation against a shadow that keeps everything in plain maps: who holds what, when it was
// released, and which tokens its rows were computed from.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kvcache/block_pool.h"
#include "kvcache/block_table.h"
#include "kvcache/prefix.h"

namespace tandem::kvcache {
namespace {

constexpr int kBlockTokens = 4;
constexpr int kMaxSequences = 7;
constexpr int kOperations = 10000;

// One group as slow as it gets.
struct ShadowPool {
  explicit ShadowPool(int size) : content(size), holders(size, 0), name(size), age(size, -1) {
    for (int block = size - 1; block >= 0; --block) free.push_back(block);
  }

  int size() const { return static_cast<int>(holders.size()); }
  int num_cached() const {
    return static_cast<int>(std::count_if(age.begin(), age.end(), [](int a) { return a >= 0; }));
  }
  int num_free() const { return static_cast<int>(free.size()) + num_cached(); }

  int Oldest() const {
    int oldest = -1;
    for (int b = 0; b < size(); ++b) {
      if (age[b] >= 0 && (oldest < 0 || age[b] < age[oldest])) oldest = b;
    }
    return oldest;
  }
  int Take() {
    int block = Oldest();
    if (!free.empty()) {
      block = free.back();
      free.pop_back();
    } else if (block >= 0) {
      age[block] = -1;
      name[block].clear();
      ++evicted;
    } else {
      return -1;
    }
    holders[block] = 1;
    content[block].clear();
    return block;
  }
  void Hold(int block) {
    ++holders[block];
    age[block] = -1;
  }
  void Drop(int block) {
    if (--holders[block] > 0) return;
    if (name[block].empty()) {
      free.push_back(block);
    } else {
      age[block] = clock++;
    }
  }
  void Publish(int block, const std::string& new_name) {
    if (name[block].empty() && Find(new_name) < 0) name[block] = new_name;
  }
  int Find(const std::string& wanted) const {
    const auto it = std::find(name.begin(), name.end(), wanted);
    return it == name.end() ? -1 : static_cast<int>(it - name.begin());
  }
  int Flush() {
    int flushed = 0;
    std::vector<int> by_age;
    for (int block = Oldest(); block >= 0; block = Oldest()) {
      by_age.push_back(block);
      name[block].clear();
      age[block] = -1;
      ++flushed;
    }
    free.insert(free.end(), by_age.rbegin(), by_age.rend());
    return flushed;
  }

  std::vector<std::string> content;  // what the block's last row was computed from
  std::vector<int> holders;
  std::vector<std::string> name;  // what was published; empty: nothing
  std::vector<int> age;           // of cached blocks, else -1
  std::vector<int> free;          // the last one goes first
  int clock = 0;
  int evicted = 0;
};

struct Group {
  Group(bool exists, int size)
      : exists(exists), pool(exists ? size : 0), shadow(exists ? size : 0) {}
  bool exists;
  BlockPool pool;
  ShadowPool shadow;
};

struct Sequence {
  std::string known;  // a salt, then a letter by token; the K/V rows are those of known[1, 1 + kv)
  int kv = 0;
  std::array<BlockTable, 2> tables;
  std::array<std::vector<int>, 2> shadow;  // blocks by position, -1 where released
};

struct Setting {
  const char* name;
  int window;
  int sliding_blocks;  // 0: no such layers
  int full_blocks;
};

class Fuzz {
 public:
  Fuzz(const Setting& setting, int seed)
      : random_(seed),
        window_(setting.window),
        groups_{Group(setting.sliding_blocks > 0, setting.sliding_blocks),
                Group(setting.full_blocks > 0, setting.full_blocks)},
        pools_{groups_[0].exists ? &groups_[0].pool : nullptr,
               groups_[1].exists ? &groups_[1].pool : nullptr, kBlockTokens, window_} {
    for (int i = 0; i < 3; ++i) {
      std::string text;
      while (text.size() < 60) text += static_cast<char>('a' + Pick(3));
      texts_.push_back(text);
    }
  }

  void Run() {
    for (int i = 0; i < kOperations && !testing::Test::HasFailure(); ++i) {
      const int what = Pick(100);
      if (what < 15) {
        Arrive();
      } else if (what < 75) {
        Step();
      } else if (what < 85) {
        End();
      } else if (what < 89) {
        Preempt();
      } else if (what < 92) {
        Adopt();
      } else if (what < 99) {
        Fork();
      } else {
        Flush();
      }
      CheckCounts();
      if (i % 8 == 0) CheckKeys();
    }
    while (!sequences_.empty()) End();
    CheckCounts();
    CheckKeys();
    Drain();
  }

  // Of the run, so that a test can tell that something happened.
  int64_t hits = 0;
  int64_t lost = 0;
  int64_t refused = 0;
  int64_t evicted() const { return groups_[0].pool.num_evicted() + groups_[1].pool.num_evicted(); }

 private:
  int Pick(int below) { return static_cast<int>(random_() % below); }

  static std::string NameOf(const Sequence& s, int block) {
    return s.known.substr(0, 1 + (block + 1) * kBlockTokens);
  }
  // Keys of the full blocks of what is known.
  std::vector<BlockKey> KeysOf(const Sequence& s) {
    std::vector<BlockKey> keys;
    BlockKey parent = RootKey(s.known.substr(0, 1), "formats");
    const int blocks = (static_cast<int>(s.known.size()) - 1) / kBlockTokens;
    for (int b = 0; b < blocks; ++b) {
      std::vector<int32_t> tokens;
      for (int i = 0; i < kBlockTokens; ++i) tokens.push_back(s.known[1 + b * kBlockTokens + i]);
      parent = ChildKey(parent, tokens);
      keys.push_back(parent);
      key_of_.emplace(NameOf(s, b), parent);
    }
    return keys;
  }

  bool HasAll(int g, const Sequence& s, int begin, int end) const {
    for (int position = begin; position < end; ++position) {
      if (groups_[g].shadow.Find(NameOf(s, position / kBlockTokens)) < 0) return false;
    }
    return true;
  }
  int FirstSeen(int tokens) const { return std::max(0, tokens - window_ + 1); }

  // By the definition, position by position.
  PrefixHit SlowFind(const Sequence& s, int max_tokens) const {
    const int known = std::min(max_tokens, static_cast<int>(s.known.size()) - 1);
    const bool both = groups_[0].exists && groups_[1].exists;
    std::optional<int> chain;  // the longest prefix that the full group has
    PrefixHit hit;
    for (int n = known / kBlockTokens * kBlockTokens; n >= 0; n -= kBlockTokens) {
      if (groups_[1].exists && !HasAll(1, s, 0, n)) continue;
      if (!chain.has_value()) chain = n;
      if (groups_[0].exists && !HasAll(0, s, FirstSeen(n), n)) continue;
      hit.tokens = n;
      hit.lost_to_window = both ? *chain - n : 0;
      break;
    }
    for (const int g : {0, 1}) {
      if (!groups_[g].exists) continue;
      const ShadowPool& shadow = groups_[g].shadow;
      const int first = g == 0 ? FirstSeen(hit.tokens) / kBlockTokens : 0;
      for (int b = first; b < hit.tokens / kBlockTokens; ++b) {
        if (shadow.holders[shadow.Find(NameOf(s, b))] == 0) ++hit.unheld[g];
      }
    }
    return hit;
  }

  void Admit(Sequence& s) {
    const std::vector<BlockKey> keys = KeysOf(s);
    const int max_tokens = Pick(4) == 0 ? Pick(40) : static_cast<int>(s.known.size()) - 2;
    const PrefixHit hit = FindPrefix(pools_, keys, max_tokens);
    const PrefixHit expected = SlowFind(s, max_tokens);
    ASSERT_EQ(hit.tokens, expected.tokens);
    ASSERT_EQ(hit.unheld, expected.unheld);
    ASSERT_EQ(hit.lost_to_window, expected.lost_to_window);
    hits += hit.tokens > 0;
    lost += hit.lost_to_window > 0;
    const std::array<int32_t, 2> free_before = {groups_[0].pool.num_free(),
                                                groups_[1].pool.num_free()};
    TakePrefix(pools_, keys, hit.tokens, &s.tables[0], &s.tables[1]);
    s.kv = hit.tokens;
    for (const int g : {0, 1}) {
      if (!groups_[g].exists) continue;
      EXPECT_EQ(free_before[g] - groups_[g].pool.num_free(), hit.unheld[g]);
      ShadowPool& shadow = groups_[g].shadow;
      const int first = g == 0 ? FirstSeen(s.kv) / kBlockTokens : 0;
      for (int b = 0; b < s.kv / kBlockTokens; ++b) {
        const int block = b < first ? -1 : shadow.Find(NameOf(s, b));
        if (block >= 0) shadow.Hold(block);
        s.shadow[g].push_back(block);
      }
    }
  }

  void Arrive() {
    if (sequences_.size() == kMaxSequences) return;
    Sequence& s = sequences_.emplace_back();
    s.known = std::string(1, "xy"[Pick(8) == 0]);
    s.known += texts_[Pick(3)].substr(0, Pick(61));
    for (int tail = 1 + Pick(8); tail > 0; --tail) s.known += static_cast<char>('a' + Pick(3));
    Admit(s);
  }

  // Blocks for all positions below `tokens`, in both groups or none.
  bool GrowBoth(Sequence& s, int tokens) {
    for (const int g : {0, 1}) {
      if (!groups_[g].exists) continue;
      ShadowPool& shadow = groups_[g].shadow;
      const int missing =
          (tokens + kBlockTokens - 1) / kBlockTokens - static_cast<int>(s.shadow[g].size());
      const bool fits = missing <= shadow.num_free();
      EXPECT_EQ(Grow(s.tables[g], groups_[g].pool, kBlockTokens, tokens), fits);
      if (!fits) {
        if (g == 1) TruncateBoth(s, s.kv);
        return false;
      }
      for (int i = 0; i < missing; ++i) s.shadow[g].push_back(shadow.Take());
    }
    return true;
  }
  void TruncateBoth(Sequence& s, int tokens) {
    for (const int g : {0, 1}) {
      if (!groups_[g].exists) continue;
      Truncate(s.tables[g], groups_[g].pool, kBlockTokens, tokens);
      while (static_cast<int>(s.shadow[g].size()) * kBlockTokens >= tokens + kBlockTokens &&
             s.shadow[g].back() >= 0) {
        groups_[g].shadow.Drop(s.shadow[g].back());
        s.shadow[g].pop_back();
      }
    }
  }
  void FreeBoth(Sequence& s) {
    for (const int g : {0, 1}) {
      Free(s.tables[g], groups_[g].pool);
      for (; !s.shadow[g].empty(); s.shadow[g].pop_back()) {
        if (s.shadow[g].back() >= 0) groups_[g].shadow.Drop(s.shadow[g].back());
      }
    }
    s.kv = 0;
  }

  // Rows of known tokens and wrong guesses behind them; then what a commit does.
  void Step() {
    if (sequences_.empty()) return;
    Sequence& s = sequences_[Pick(static_cast<int>(sequences_.size()))];
    int left = static_cast<int>(s.known.size()) - 1 - s.kv;
    if (left == 0 || Pick(3) == 0) {
      if (s.known.size() > 80) return;
      s.known += static_cast<char>('a' + Pick(3));
      ++left;
    }
    const int rows = 1 + Pick(std::min(left, 12));
    const int guesses = Pick(3) == 0 ? 1 + Pick(6) : 0;
    if (!GrowBoth(s, s.kv + rows + guesses)) {
      ++refused;
      return;
    }
    const std::string fed = s.known.substr(0, 1 + s.kv + rows) + std::string(guesses, '?');
    for (const int g : {0, 1}) {
      if (!groups_[g].exists) continue;
      for (int position = s.kv; position < s.kv + rows + guesses; ++position) {
        const int block = s.shadow[g][position / kBlockTokens];
        // Nobody else sees what is written, and what was published is never written again.
        EXPECT_EQ(groups_[g].shadow.holders[block], 1);
        EXPECT_EQ(groups_[g].shadow.name[block], "");
        groups_[g].shadow.content[block] = fed.substr(0, 2 + position);
      }
    }
    s.kv += rows;
    TruncateBoth(s, s.kv);
    if (guesses > 0) RestoreContent(s);
    if (Pick(8) != 0) PublishAll(s);
    ReleaseOutOfSight(s);
  }

  // The last block's rows end at the sequence's own, once wrong guesses are forgotten.
  void RestoreContent(const Sequence& s) {
    if (s.kv % kBlockTokens == 0) return;
    for (const int g : {0, 1}) {
      if (groups_[g].exists) {
        groups_[g].shadow.content[s.shadow[g].back()] = s.known.substr(0, 1 + s.kv);
      }
    }
  }
  void PublishAll(Sequence& s) {
    const std::vector<BlockKey> keys = KeysOf(s);
    for (const int g : {0, 1}) {
      if (!groups_[g].exists) continue;
      for (int b = 0; b < s.kv / kBlockTokens; ++b) {
        if (s.shadow[g][b] < 0) continue;
        groups_[g].pool.Publish(s.tables[g].blocks[b], keys[b]);
        groups_[g].shadow.Publish(s.shadow[g][b], NameOf(s, b));
      }
    }
  }
  void ReleaseOutOfSight(Sequence& s) {
    if (!groups_[0].exists) return;
    const int first = FirstSeen(s.kv);
    ReleaseBelow(s.tables[0], groups_[0].pool, kBlockTokens, first);
    for (int b = 0; (b + 1) * kBlockTokens <= first; ++b) {
      int& block = s.shadow[0][b];
      if (block >= 0) groups_[0].shadow.Drop(block);
      block = -1;
    }
  }

  void End() {
    if (sequences_.empty()) return;
    const size_t i = Pick(static_cast<int>(sequences_.size()));
    FreeBoth(sequences_[i]);
    sequences_.erase(sequences_.begin() + i);
  }

  // Gives all back, and starts again from what is found.
  void Preempt() {
    if (sequences_.empty()) return;
    Sequence& s = sequences_[Pick(static_cast<int>(sequences_.size()))];
    FreeBoth(s);
    Admit(s);
  }

  // Goes on from what others have published meanwhile, when that is further.
  void Adopt() {
    if (sequences_.empty()) return;
    Sequence& s = sequences_[Pick(static_cast<int>(sequences_.size()))];
    Sequence adopted;
    adopted.known = s.known;
    Admit(adopted);
    if (adopted.kv > s.kv) std::swap(adopted, s);
    FreeBoth(adopted);
  }

  // Full blocks are shared, the block that rows still go to is copied.
  void Fork() {
    if (sequences_.empty() || sequences_.size() == kMaxSequences) return;
    Sequence child = sequences_[Pick(static_cast<int>(sequences_.size()))];
    const bool partial = child.kv % kBlockTokens != 0;
    for (Group& group : groups_) {
      if (group.exists && partial && group.pool.num_free() == 0) return;
    }
    for (const int g : {0, 1}) {
      if (!groups_[g].exists) continue;
      std::vector<int32_t>& blocks = child.tables[g].blocks;
      for (size_t b = 0; b < blocks.size(); ++b) {
        if (blocks[b] < 0) continue;
        if (partial && b + 1 == blocks.size()) {
          const std::string content = groups_[g].shadow.content[blocks[b]];
          blocks[b] = groups_[g].pool.Allocate();
          child.shadow[g][b] = groups_[g].shadow.Take();
          groups_[g].shadow.content[child.shadow[g][b]] = content;
        } else {
          groups_[g].pool.AddReference(blocks[b]);
          groups_[g].shadow.Hold(child.shadow[g][b]);
        }
      }
    }
    sequences_.push_back(std::move(child));
  }

  void Flush() {
    for (Group& group : groups_) EXPECT_EQ(group.pool.FlushCached(), group.shadow.Flush());
  }

  void CheckCounts() {
    for (const int g : {0, 1}) {
      const BlockPool& pool = groups_[g].pool;
      const ShadowPool& shadow = groups_[g].shadow;
      std::vector<int> holders(shadow.size(), 0);
      for (const Sequence& s : sequences_) {
        EXPECT_EQ(s.tables[g].blocks, s.shadow[g]);
        for (size_t b = 0; b < s.shadow[g].size(); ++b) {
          EXPECT_EQ(static_cast<int>(b) < s.tables[g].first_held, s.shadow[g][b] < 0);
          if (s.shadow[g][b] >= 0) ++holders[s.shadow[g][b]];
        }
      }
      EXPECT_EQ(shadow.holders, holders);
      int held = 0;
      for (int b = 0; b < shadow.size(); ++b) {
        EXPECT_EQ(pool.references(b), holders[b]) << "block " << b;
        EXPECT_EQ(pool.has_key(b), !shadow.name[b].empty()) << "block " << b;
        held += holders[b] > 0;
        // Held, cached or free, and only one of them.
        const int free = std::count(shadow.free.begin(), shadow.free.end(), b);
        EXPECT_EQ((holders[b] > 0) + (shadow.age[b] >= 0) + free, 1) << "block " << b;
      }
      EXPECT_EQ(pool.num_used(), held);
      EXPECT_EQ(pool.num_cached(), shadow.num_cached());
      EXPECT_EQ(pool.num_free(), shadow.num_free());
      EXPECT_EQ(pool.num_evicted(), shadow.evicted);
    }
  }

  // Every key that ever was finds the block with exactly its rows, or none.
  void CheckKeys() {
    for (const Group& group : groups_) {
      std::map<std::string, int> blocks;
      for (int b = 0; b < group.shadow.size(); ++b) {
        if (group.shadow.name[b].empty()) continue;
        EXPECT_TRUE(blocks.emplace(group.shadow.name[b], b).second);
        EXPECT_EQ(group.shadow.content[b], group.shadow.name[b]);
      }
      for (const auto& [name, key] : key_of_) {
        const auto it = blocks.find(name);
        EXPECT_EQ(group.pool.Find(key), it == blocks.end() ? -1 : it->second) << name;
      }
    }
    while (key_of_.size() > 300) key_of_.erase(std::next(key_of_.begin(), Pick(300)));
    for (const Sequence& s : sequences_) KeysOf(s);
  }

  // With nobody left, all blocks can be had, in the order in which they were given back.
  void Drain() {
    for (Group& group : groups_) {
      EXPECT_EQ(group.pool.num_free(), group.pool.num_blocks());
      for (int i = 0; i < group.shadow.size(); ++i) {
        EXPECT_EQ(group.pool.Allocate(), group.shadow.Take());
      }
      EXPECT_EQ(group.pool.Allocate(), -1);
      for (const auto& [name, key] : key_of_) EXPECT_EQ(group.pool.Find(key), -1);
    }
  }

  std::mt19937 random_;
  const int window_;
  std::array<Group, 2> groups_;
  const PrefixPools pools_;
  std::vector<std::string> texts_;  // that prompts begin with
  std::vector<Sequence> sequences_;
  std::map<std::string, BlockKey> key_of_;
};

class PoolFuzzTest : public testing::TestWithParam<Setting> {};

TEST_P(PoolFuzzTest, AgreesWithAShadowThatKeepsEverything) {
  Fuzz fuzz(GetParam(), /*seed=*/GetParam().window * 1000 + GetParam().full_blocks);
  fuzz.Run();
  // And it was not idle.
  EXPECT_GT(fuzz.hits, 100);
  EXPECT_GT(fuzz.evicted(), 100);
  EXPECT_GT(fuzz.refused, 10);
  if (GetParam().sliding_blocks > 0 && GetParam().full_blocks > 0 && GetParam().window > 1) {
    EXPECT_GT(fuzz.lost, 10);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, PoolFuzzTest,
    testing::Values(Setting{"window_of_one", 1, 24, 40}, Setting{"window_of_a_block", 4, 20, 40},
                    Setting{"window_of_a_block_and_one", 5, 20, 40},
                    Setting{"window_of_two_blocks", 8, 24, 48},
                    Setting{"window_of_three_and_a_bit", 14, 30, 60},
                    Setting{"wide_window", 1000, 40, 60}, Setting{"tiny_pools", 6, 8, 14},
                    Setting{"long_memory", 10, 24, 56}, Setting{"no_sliding_layers", 0, 0, 40},
                    Setting{"no_full_layers", 9, 14, 0}),
    [](const testing::TestParamInfo<Setting>& info) { return info.param.name; });

}  // namespace
}  // namespace tandem::kvcache
