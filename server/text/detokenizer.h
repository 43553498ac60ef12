// Token ids to text: at once, or as a stream that never shows half a character.
//
// In        token ids; the vocabulary.
// Out       valid UTF-8.
// Not here  stop strings (stop_matcher.h); parsing channels and tool calls, which works on ids.
// Threads   Decode is pure; a StreamDetokenizer belongs to one stream.

#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "server/text/tokenizer.h"

namespace tandem::server {

// The text of `ids`, as Hugging Face `tokenizers` decodes it: a run of byte tokens that is not
// valid UTF-8 gives one U+FFFD per byte of the whole run; ids that name no token give nothing. With
// `skip_special` special tokens are left out first and so do not end a run.
std::string Decode(const Tokenizer& tokenizer, std::span<const int32_t> ids, bool skip_special);

// The same, token by token. The pieces concatenate to what Decode gives, except where a run of byte
// tokens is invalid: here its valid characters survive, and only bytes that belong to none become
// U+FFFD, since what was shown cannot be taken back.
class StreamDetokenizer {
 public:
  // `tokenizer` outlives the stream.
  StreamDetokenizer(const Tokenizer& tokenizer, bool skip_special)
      : tokenizer_(&tokenizer), skip_special_(skip_special) {}

  // The text that `id` completes: whole characters. At most 3 bytes wait for later tokens.
  std::string Push(int32_t id);

  // Ends the stream: one U+FFFD for each byte still waiting. Later pushes start a new stream.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // start of a character, at most 3 bytes
};

}  // namespace tandem::server
