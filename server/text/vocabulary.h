// What each token id stands for: its piece, the bytes it contributes to text, and the way back.
//
// In        pieces by id (tokenizer_json.h).
// Out       lookups by id and by piece; the 256 byte tokens.
// Not here  merges (bpe.h); which tokens are special (tokenizer.h).
// Threads   immutable once created; any number of readers.

#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"

namespace tandem::server {

// Gemma 4's stand-in for a space inside pieces, U+2581.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

class Vocabulary {
 public:
  // `file` names the source in errors.
  //   errors  kInvalidArgument for a repeated piece and for a missing byte token <0x00>..<0xFF>
  static absl::StatusOr<Vocabulary> Create(std::vector<std::string> pieces, std::string_view file);

  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  int size() const { return static_cast<int>(pieces_.size()); }
  bool Contains(int32_t id) const { return id >= 0 && id < size(); }
  std::optional<int32_t> Find(std::string_view piece) const;

  // The lookups below answer for ids in [0, size()); Contains() tells.

  // As spelled in the file: U+2581 for a space, "<0x0A>" for a byte.
  std::string_view Piece(int32_t id) const { return pieces_[id]; }

  // What the token adds to text: the one byte of a byte token, else the piece with its spaces.
  std::string_view Bytes(int32_t id) const { return bytes_[id]; }

  bool IsByte(int32_t id) const { return is_byte_[id]; }
  int32_t ByteToken(unsigned char byte) const { return byte_tokens_[byte]; }

 private:
  Vocabulary() = default;

  std::vector<std::string> pieces_;  // [size]
  std::vector<std::string> bytes_;   // [size]
  std::vector<bool> is_byte_;        // [size]
  std::array<int32_t, 256> byte_tokens_;
  // Views into pieces_, whose elements never move.
  absl::flat_hash_map<std::string_view, int32_t, std::hash<std::string_view>> ids_;
};

}  // namespace tandem::server
