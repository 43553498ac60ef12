// How many tokens prompts and answers have.
//
//   128                  always so many
//   64-256               evenly spread over both ends
//   lognormal:200:0.6    long-tailed: mean 200 tokens, standard deviation 0.6 of their logarithm
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "bench/random.h"

namespace tandem::bench {

inline constexpr int kMaxTokens = 1 << 20;

struct Lengths {
  enum class Kind { kFixed, kUniform, kLognormal };
  Kind kind = Kind::kFixed;
  int least = 128;  // kFixed, kUniform
  int most = 128;   // kFixed (equal to least), kUniform
  double mean = 0;  // kLognormal
  double sigma = 0;

  bool bounded() const { return kind != Kind::kLognormal; }
};

//   errors  kInvalidArgument: what the text should look like, or which number is out of range
absl::StatusOr<Lengths> ParseLengths(std::string_view text);
// The same as a check of an option's value.
absl::Status CheckLengths(std::string_view text);

// In [1, kMaxTokens].
int DrawLength(const Lengths& lengths, Random& random);

}  // namespace tandem::bench
