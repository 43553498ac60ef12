#include "bench/lengths.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "absl/strings/str_format.h"

namespace tandem::bench {
namespace {

constexpr std::string_view kLognormal = "lognormal:";
constexpr double kMaxSigma = 5.0;

template <typename Number>
std::optional<Number> ParseNumber(std::string_view text) {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

absl::Status NotALength(std::string_view text) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "'%s' is not a length; expected 128, 64-256 or lognormal:MEAN:SIGMA", std::string(text)));
}

bool InRange(double tokens) { return tokens >= 1 && tokens <= kMaxTokens; }

absl::Status OutOfRange(std::string_view text) {
  return absl::InvalidArgumentError(absl::StrFormat(
      "'%s' is out of range; a length is 1 to %d tokens", std::string(text), kMaxTokens));
}

absl::StatusOr<Lengths> ParseLognormal(std::string_view text, std::string_view parameters) {
  const size_t colon = parameters.find(':');
  if (colon == std::string_view::npos) return NotALength(text);
  const std::optional<double> mean = ParseNumber<double>(parameters.substr(0, colon));
  const std::optional<double> sigma = ParseNumber<double>(parameters.substr(colon + 1));
  if (!mean.has_value() || !sigma.has_value()) return NotALength(text);
  if (!InRange(*mean)) return OutOfRange(text);
  if (!(*sigma >= 0 && *sigma <= kMaxSigma)) {
    return absl::InvalidArgumentError(absl::StrFormat("'%s': sigma is out of range; it is 0 to %g",
                                                      std::string(text), kMaxSigma));
  }
  return Lengths{.kind = Lengths::Kind::kLognormal, .mean = *mean, .sigma = *sigma};
}

}  // namespace

absl::StatusOr<Lengths> ParseLengths(std::string_view text) {
  if (text.starts_with(kLognormal)) return ParseLognormal(text, text.substr(kLognormal.size()));
  const size_t dash = text.find('-', 1);
  const std::optional<int64_t> least = ParseNumber<int64_t>(text.substr(0, dash));
  const std::optional<int64_t> most =
      dash == std::string_view::npos ? least : ParseNumber<int64_t>(text.substr(dash + 1));
  if (!least.has_value() || !most.has_value()) return NotALength(text);
  if (!InRange(static_cast<double>(*least)) || !InRange(static_cast<double>(*most))) {
    return OutOfRange(text);
  }
  if (*least > *most) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "'%s' ends before it begins; put the smaller length first", std::string(text)));
  }
  return Lengths{.kind = *least == *most ? Lengths::Kind::kFixed : Lengths::Kind::kUniform,
                 .least = static_cast<int>(*least),
                 .most = static_cast<int>(*most)};
}

absl::Status CheckLengths(std::string_view text) { return ParseLengths(text).status(); }

int DrawLength(const Lengths& lengths, Random& random) {
  if (lengths.bounded()) {
    return lengths.least + static_cast<int>(random.Below(lengths.most - lengths.least + 1));
  }
  // The mean of exp(N(mu, sigma^2)) is exp(mu + sigma^2 / 2).
  const double mu = std::log(lengths.mean) - lengths.sigma * lengths.sigma / 2;
  const double tokens = std::round(std::exp(mu + lengths.sigma * random.Normal()));
  return static_cast<int>(std::clamp(tokens, 1.0, static_cast<double>(kMaxTokens)));
}

}  // namespace tandem::bench
