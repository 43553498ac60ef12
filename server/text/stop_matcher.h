// Finds the first stop string in growing text and withholds what might become one.
//
// In        text in whole characters, token by token (detokenizer.h).
// Out       text that is safe to show; which stop string ended it.
// Not here  stop token ids; the order of precedence between reasons to stop.
// Threads   one stream each.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::server {

inline constexpr int kMaxStopStrings = 16;
inline constexpr int kMaxStopStringBytes = 256;

// Of all occurrences the one that ends first is the match, and of those that end together the one
// that starts first. That is the earliest a stream can know, and does not depend on how the text is
// cut into pushes. Linear in the text: each stop string is followed by its own Knuth-Morris-Pratt
// automaton.
class StopMatcher {
 public:
  // Without `include_stop` the text ends before the match, with it behind it.
  //   errors  kInvalidArgument naming stop or stop[i]: more than 16 strings, a string of 0 or more
  //           than 256 bytes or one that is not UTF-8
  static absl::StatusOr<StopMatcher> Create(std::vector<std::string> stops, bool include_stop);

  // Takes the text of the next token; returns what may be shown now, whole characters. Withheld is
  // the longest end of the text that is a proper prefix of a stop string. With `may_stop` false
  // (min_tokens not reached) no match ends within `text`, but one that ends later
  // may start there. After a match everything is swallowed.
  std::string Push(std::string_view text, bool may_stop);

  // Ends the text: returns what was withheld. Later pushes start a new text, unless there was a
  // match.
  std::string Finish();

  // The stop string that matched, as an index into `stops`.
  std::optional<int> matched() const { return matched_; }
  const std::string& stop(int idx) const { return patterns_[idx].text; }

 private:
  struct Pattern {
    std::string text;
    // [text.size() + 1]: of the first n bytes, the longest proper suffix that is also a prefix.
    std::vector<uint16_t> border;
    uint16_t length = 0;  // bytes of this pattern that the text ends with
  };

  StopMatcher() = default;
  std::string Release(size_t bytes);

  std::vector<Pattern> patterns_;
  bool include_stop_ = false;
  std::string withheld_;
  std::optional<int> matched_;
};

}  // namespace tandem::server
