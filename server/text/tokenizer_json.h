// Reads tokenizer.json into plain tables, and refuses what this server would tokenize differently.
//
// In        the bytes of a tokenizer.json (spec: Hugging Face `tokenizers` format, Gemma 4 form).
// Out       TokenizerTables: pieces by id, merges by rank, added tokens.
// Not here  whether the tables fit together (vocabulary.h, bpe.h, added_tokens.h).
// Threads   pure function.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::server {

struct AddedToken {
  int32_t id;
  bool special;  // hidden by skip_special; every added token is matched in text, special or not
};

struct MergeRule {
  std::string left, right;  // pieces; the merged piece is their concatenation
};

struct TokenizerTables {
  std::vector<std::string> pieces;  // [vocab_size], by id; an added token may lie past model.vocab
  std::vector<MergeRule> merges;    // by rank, best first
  std::vector<AddedToken> added_tokens;
};

// Reads `json`; `file` names it in errors. The post-processor, truncation and padding are not used:
// BOS is the caller's decision (Tokenizer::EncodePrompt), prompts are never cut or padded here.
//   errors  kInvalidArgument with file, field and value: not JSON; a model other than BPE with byte
//           fallback; a normalizer, pre-tokenizer or decoder other than Gemma 4's; ids that are not
//           0..n-1, each once; malformed merges; an added token that contradicts the vocabulary
absl::StatusOr<TokenizerTables> ReadTokenizerJson(std::string_view json, std::string_view file);

}  // namespace tandem::server
