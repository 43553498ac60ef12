#include "server/text/vocabulary.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "server/text/utf8.h"

namespace tandem::server {
namespace {

// The value of one hexadecimal digit, or -1.
int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// The byte that "<0xNN>" names. Either case, as the reference's byte decoder reads it; encoding
// asks for the upper-case spelling only.
std::optional<unsigned char> ByteOfPiece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece.back() != '>') return std::nullopt;
  const int high = HexDigit(piece[3]), low = HexDigit(piece[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<unsigned char>(high * 16 + low);
}

std::string WithSpaces(std::string_view piece) {
  std::string text;
  text.reserve(piece.size());
  for (size_t start = 0;;) {
    const size_t mark = piece.find(kSpaceMark, start);
    text.append(piece.substr(start, mark - start));
    if (mark == std::string_view::npos) return text;
    text.push_back(' ');
    start = mark + kSpaceMark.size();
  }
}

}  // namespace

absl::StatusOr<Vocabulary> Vocabulary::Create(std::vector<std::string> pieces,
                                              std::string_view file) {
  Vocabulary vocab;
  vocab.pieces_ = std::move(pieces);
  vocab.bytes_.reserve(vocab.pieces_.size());
  vocab.is_byte_.reserve(vocab.pieces_.size());
  vocab.ids_.reserve(vocab.pieces_.size());
  for (int32_t id = 0; id < vocab.size(); ++id) {
    const std::string& piece = vocab.pieces_[id];
    const auto [entry, inserted] = vocab.ids_.try_emplace(piece, id);
    if (!inserted) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: vocabulary entry %d repeats entry %d, %s", file, id, entry->second, Quoted(piece)));
    }
    const std::optional<unsigned char> byte = ByteOfPiece(piece);
    vocab.is_byte_.push_back(byte.has_value());
    vocab.bytes_.push_back(byte.has_value() ? std::string(1, static_cast<char>(*byte))
                                            : WithSpaces(piece));
  }
  for (int byte = 0; byte < 256; ++byte) {
    const std::string piece = absl::StrFormat("<0x%02X>", byte);
    const std::optional<int32_t> id = vocab.Find(piece);
    if (!id.has_value()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: the vocabulary has no byte token %s; all 256 are needed to spell any text", file,
          piece));
    }
    vocab.byte_tokens_[byte] = *id;
  }
  return vocab;
}

std::optional<int32_t> Vocabulary::Find(std::string_view piece) const {
  const auto found = ids_.find(piece);
  if (found == ids_.end()) return std::nullopt;
  return found->second;
}

}  // namespace tandem::server
