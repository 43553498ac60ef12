// Text to token ids: added tokens first, byte-pair encoding for the text between them.
//
// In        a tokenizer.json; prompts.
// Out       token ids with byte offsets; what each id stands for.
// Not here  ids back to text (detokenizer.h); the chat format.
// Threads   immutable once loaded; any number of readers.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/text/added_tokens.h"
#include "server/text/bpe.h"
#include "server/text/tokenizer_json.h"
#include "server/text/vocabulary.h"

namespace tandem::server {

// Bytes [begin, end) of a text.
struct ByteSpan {
  size_t begin, end;
};

class Tokenizer {
 public:
  // Reads the file at `path`.
  //   errors  kNotFound when it cannot be read; kInvalidArgument, naming file, field and value,
  //   when
  //           its content is unusable (ReadTokenizerJson, Create)
  static absl::StatusOr<Tokenizer> Load(const std::string& path);

  // Reads a tokenizer.json in memory; `name` stands for the file in errors.
  static absl::StatusOr<Tokenizer> FromJson(std::string_view json, std::string_view name);

  // From tables of any origin; `name` stands for the file in errors.
  //   errors  kInvalidArgument for a repeated piece, a missing byte token, U+2581 or <bos>, a merge
  //           the vocabulary does not support, an added token repeated or out of range
  static absl::StatusOr<Tokenizer> Create(TokenizerTables tables, std::string_view name);

  // The tokens of `text`, without BOS. With `parse_special` added tokens found in the text become
  // their ids (leftmost, longest); without, they are text like any other. Bytes that are not valid
  // UTF-8 count as U+FFFD each, and offsets then refer to SanitizeUtf8(text). Text is shorter than
  // 4 GiB.
  Encoding Encode(std::string_view text, bool parse_special) const;

  // The same for the start of a sequence: with `add_bos` one BOS stands in front (at offset 0),
  // unless the text itself begins with one that `parse_special` recognised.
  //   client_spans  ascending and disjoint. Added tokens are recognised only where they touch none
  //                 of them; what lies between two that were recognised is encoded in one piece,
  //                 whoever wrote it, so that harmless text gives the same ids with and without
  Encoding EncodePrompt(std::string_view text, bool add_bos, bool parse_special,
                        std::span<const ByteSpan> client_spans = {}) const;

  // Entries of the file, added tokens included. The model's embedding must have as many rows.
  int vocab_size() const { return vocab_.size(); }
  int32_t bos_id() const { return bos_id_; }

  // Pieces, bytes and lookup by piece ("<|turn>", "<eos>").
  const Vocabulary& vocabulary() const { return vocab_; }

  // Whether text made with skip_special leaves the token out. False for ids out of range.
  bool IsSpecial(int32_t id) const { return vocab_.Contains(id) && is_special_[id]; }

 private:
  Tokenizer(Vocabulary vocab, Bpe bpe) : vocab_(std::move(vocab)), bpe_(std::move(bpe)) {}

  Vocabulary vocab_;
  Bpe bpe_;
  AddedTokens added_tokens_;
  std::vector<bool> is_special_;  // [vocab_size]
  int32_t bos_id_ = 0;
};

}  // namespace tandem::server
