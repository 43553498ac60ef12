#include "server/text/bpe.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "server/text/utf8.h"

namespace tandem::server {
namespace {

constexpr int32_t kNoToken = -1;
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
constexpr uint32_t kEnd = std::numeric_limits<uint32_t>::max();  // of the list of symbols
constexpr char32_t kSpaceMarkCodePoint = 0x2581;

uint64_t PairKey(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

// One token of the segment so far, in a doubly linked list. A symbol that its left neighbour has
// absorbed keeps its place in the array with rank kNoRank and is never reached again.
struct Symbol {
  int32_t id;
  uint32_t offset;      // of its first byte in the text
  uint32_t prev, next;  // indices, or kEnd
  uint32_t rank;        // of the merge with `next`, or kNoRank
  int32_t merged_id;    // what that merge gives
};

}  // namespace

absl::StatusOr<Bpe> Bpe::Create(const Vocabulary& vocab, std::span<const MergeRule> merges,
                                std::string_view file) {
  Bpe bpe;
  for (int byte = 0; byte < 256; ++byte) bpe.byte_tokens_[byte] = vocab.ByteToken(byte);
  for (int32_t id = 0; id < vocab.size(); ++id) {
    const std::string_view piece = vocab.Piece(id);
    if (piece.empty()) continue;
    const Utf8Prefix front = ClassifyUtf8(piece);
    if (front.state != Utf8State::kComplete || front.length != static_cast<int>(piece.size())) {
      continue;
    }
    const char32_t code_point = DecodeCodePoint(piece.data(), front.length);
    if (code_point >= bpe.char_tokens_.size()) bpe.char_tokens_.resize(code_point + 1, kNoToken);
    bpe.char_tokens_[code_point] = id;
  }

  if (!vocab.Find(kSpaceMark).has_value()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: the vocabulary has no %s, the piece of a space", file, Quoted(kSpaceMark)));
  }

  bpe.merges_.reserve(merges.size());
  std::string merged;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const MergeRule& merge = merges[rank];
    const auto find = [&](const std::string& piece) -> absl::StatusOr<int32_t> {
      const std::optional<int32_t> id = vocab.Find(piece);
      if (id.has_value()) return *id;
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: merges[%d] joins %s and %s but the vocabulary has no %s", file, rank,
                          Quoted(merge.left), Quoted(merge.right), Quoted(piece)));
    };
    merged.assign(merge.left).append(merge.right);
    const absl::StatusOr<int32_t> left = find(merge.left);
    if (!left.ok()) return left.status();
    const absl::StatusOr<int32_t> right = find(merge.right);
    if (!right.ok()) return right.status();
    const absl::StatusOr<int32_t> result = find(merged);
    if (!result.ok()) return result.status();
    bpe.merges_.insert_or_assign(PairKey(*left, *right),
                                 Merge{.rank = static_cast<uint32_t>(rank), .id = *result});
  }
  return bpe;
}

const Bpe::Merge* Bpe::FindMerge(int32_t left, int32_t right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void Bpe::Encode(std::string_view segment, uint32_t segment_offset, Encoding& out) const {
  std::vector<Symbol> symbols;
  symbols.reserve(segment.size());
  const auto append = [&](int32_t id, size_t at) {
    const auto idx = static_cast<uint32_t>(symbols.size());
    symbols.push_back({.id = id,
                       .offset = segment_offset + static_cast<uint32_t>(at),
                       .prev = idx == 0 ? kEnd : idx - 1,
                       .next = idx + 1,
                       .rank = kNoRank,
                       .merged_id = kNoToken});
  };
  for (size_t at = 0; at < segment.size();) {
    const int length = ClassifyUtf8(segment.substr(at)).length;
    const char32_t code_point =
        segment[at] == ' ' ? kSpaceMarkCodePoint : DecodeCodePoint(segment.data() + at, length);
    const int32_t id = code_point < char_tokens_.size() ? char_tokens_[code_point] : kNoToken;
    if (id != kNoToken) {
      append(id, at);
    } else {
      for (int i = 0; i < length; ++i) {
        append(byte_tokens_[static_cast<unsigned char>(segment[at + i])], at + i);
      }
    }
    at += length;
  }
  if (symbols.empty()) return;
  symbols.back().next = kEnd;

  // Candidates, lowest rank first and leftmost among equals: rank in the high half, index of the
  // left symbol in the low one. An entry is stale once that symbol's rank is another: a pair only
  // ever changes by growing, so the same rank means the same pair.
  std::vector<uint64_t> heap;
  heap.reserve(symbols.size());
  const auto rate = [&](uint32_t idx) {  // true when the pair at idx can merge
    Symbol& symbol = symbols[idx];
    const Merge* merge =
        symbol.next == kEnd ? nullptr : FindMerge(symbol.id, symbols[symbol.next].id);
    symbol.rank = merge == nullptr ? kNoRank : merge->rank;
    symbol.merged_id = merge == nullptr ? kNoToken : merge->id;
    if (merge != nullptr) heap.push_back(uint64_t{merge->rank} << 32 | idx);
    return merge != nullptr;
  };
  for (uint32_t idx = 0; idx < symbols.size(); ++idx) rate(idx);
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    const auto idx = static_cast<uint32_t>(heap.back());
    heap.pop_back();
    Symbol& left = symbols[idx];
    if (left.rank != rank) continue;
    Symbol& right = symbols[left.next];
    left.id = left.merged_id;
    left.next = right.next;
    right.rank = kNoRank;
    if (left.next != kEnd) symbols[left.next].prev = idx;
    if (rate(idx)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    if (left.prev != kEnd && rate(left.prev)) {
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
  for (uint32_t idx = 0; idx != kEnd; idx = symbols[idx].next) {
    out.ids.push_back(symbols[idx].id);
    out.byte_offsets.push_back(symbols[idx].offset);
  }
}

}  // namespace tandem::server
