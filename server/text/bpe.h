// Byte-pair encoding of one segment of text: characters or bytes first, then merges by rank.
//
// In        a vocabulary and its merges; text without added tokens in it.
// Out       token ids, each with the place in the text where it starts.
// Not here  added tokens, BOS, repair of invalid UTF-8 (tokenizer.h).
// Threads   immutable once created; any number of readers.

#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "server/text/tokenizer_json.h"
#include "server/text/vocabulary.h"

namespace tandem::server {

// Token ids of a text, and for each the byte of the text where it starts. The tokens of a character
// spelled in bytes start at its successive bytes.
struct Encoding {
  std::vector<int32_t> ids;            // [tokens]
  std::vector<uint32_t> byte_offsets;  // [tokens], never falling
};

class Bpe {
 public:
  // `merges` by rank; of a pair listed twice the later rank counts, as in the reference. `file`
  // names the source in errors.
  //   errors  kInvalidArgument when the vocabulary lacks U+2581, or a part or the result of a merge
  static absl::StatusOr<Bpe> Create(const Vocabulary& vocab, std::span<const MergeRule> merges,
                                    std::string_view file);

  // Appends the tokens of `segment`: valid UTF-8, `segment_offset` bytes into the whole text, which
  // is shorter than 4 GiB. A space counts as U+2581. Of all adjacent pairs the one with the lowest
  // rank merges first, the leftmost among equals, until none has a rank. O(n log n).
  void Encode(std::string_view segment, uint32_t segment_offset, Encoding& out) const;

 private:
  struct Merge {
    uint32_t rank;
    int32_t id;  // of the merged piece
  };

  Bpe() = default;
  const Merge* FindMerge(int32_t left, int32_t right) const;

  std::vector<int32_t> char_tokens_;  // by code point; kNoToken, or past the end: spelled in bytes
  std::array<int32_t, 256> byte_tokens_;
  absl::flat_hash_map<uint64_t, Merge> merges_;  // key: left id, right id
};

}  // namespace tandem::server
