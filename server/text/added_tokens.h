// Finds added tokens such as <|turn> in raw text: leftmost first, longest at a place.
//
// In        the texts and ids of added tokens.
// Out       where the next one stands.
// Not here  what to do with the text between them (tokenizer.h).
// Threads   immutable once filled; any number of readers.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace tandem::server {

class AddedTokens {
 public:
  struct Match {
    size_t start, length;  // bytes
    int32_t id;
  };

  // `text` is not empty and was not added before.
  void Add(std::string_view text, int32_t id);

  // The first match at or after `from`. O(n * longest token), one step per byte where no token can
  // start.
  std::optional<Match> FindNext(std::string_view text, size_t from) const;

 private:
  uint32_t num_nodes_ = 1;                           // of the trie; node 0 is the root
  std::array<bool, 256> starts_token_{};             // by first byte
  absl::flat_hash_map<uint64_t, uint32_t> edges_;    // key: node, byte
  absl::flat_hash_map<uint32_t, int32_t> token_at_;  // id of the token that ends at a node
};

}  // namespace tandem::server
