#include "kvcache/kv_formats.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tandem::kvcache {
namespace {

using kernels::KvFormat;

// One more whenever the same tokens come to other bytes: another rounding, order or codebook.
constexpr int kNumericsVersion = 1;

constexpr std::array<std::string_view, kernels::kNumKvFormats> kNames = {
    "f32", "bf16", "f16", "q8", "turbo4", "turbo3", "turbo2"};

std::string PairText(const KvPair& pair) {
  return absl::StrCat(std::string(KvFormatName(pair.k)), "/", std::string(KvFormatName(pair.v)));
}

bool IsTurbo(KvFormat format) { return format >= KvFormat::kTurbo4; }

KvFormat Protected(KvFormat configured, KvFormat protection) {
  return kernels::KvHasScale(configured) ? protection : configured;
}

}  // namespace

std::string_view KvFormatName(KvFormat format) { return kNames[static_cast<int>(format)]; }

std::optional<KvFormat> KvFormatOf(std::string_view name) {
  const auto it = std::find(kNames.begin(), kNames.end(), name);
  if (it == kNames.end()) return std::nullopt;
  return static_cast<KvFormat>(it - kNames.begin());
}

absl::StatusOr<KvPair> ParseKvPair(std::string_view text) {
  const size_t slash = std::min(text.find('/'), text.size());
  const std::string_view k_name = text.substr(0, slash);
  const std::string_view v_name = slash < text.size() ? text.substr(slash + 1) : k_name;
  const std::optional<KvFormat> k = KvFormatOf(k_name);
  const std::optional<KvFormat> v = KvFormatOf(v_name);
  if (k.has_value() && v.has_value()) return KvPair{*k, *v};
  std::string known;
  for (const std::string_view name : kNames) {
    absl::StrAppend(&known, known.empty() ? "" : ", ", std::string(name));
  }
  return absl::InvalidArgumentError(absl::StrCat("'", std::string(k.has_value() ? v_name : k_name),
                                                 "' is no KV format; give one of ", known,
                                                 " for keys and values, or two as K/V"));
}

std::optional<KvFormats> PresetFormats(std::string_view name) {
  const auto of = [](KvFormat k, KvFormat v, int first, int last) {
    return KvFormats{{KvPair{k, v}, KvPair{k, v}}, first, last, KvFormat::kQ8};
  };
  if (name == "exact") return of(KvFormat::kBf16, KvFormat::kBf16, 0, 0);
  if (name == "safe") return of(KvFormat::kQ8, KvFormat::kQ8, 0, 0);
  if (name == "balanced") return of(KvFormat::kQ8, KvFormat::kTurbo4, 0, 2);
  if (name == "compact") return of(KvFormat::kTurbo4, KvFormat::kTurbo4, 2, 2);
  if (name == "max") return of(KvFormat::kTurbo4, KvFormat::kTurbo3, 2, 2);
  return std::nullopt;
}

Protection DefaultProtection(const std::array<KvPair, 2>& groups) {
  Protection protection;
  for (const KvPair& pair : groups) {
    if (IsTurbo(pair.k) || IsTurbo(pair.v)) protection.last = 2;
    if (pair.k == KvFormat::kTurbo2 || pair.v == KvFormat::kTurbo2 || pair.k == KvFormat::kTurbo3) {
      protection.first = 2;
    }
  }
  return protection;
}

absl::StatusOr<std::vector<KvPair>> LayerFormats(const KvFormats& formats,
                                                 std::span<const int> groups) {
  const int64_t first = formats.protect_first;
  const int64_t last = formats.protect_last;
  const auto layers = static_cast<int64_t>(groups.size());
  if (first < 0 || last < 0) {
    return absl::InvalidArgumentError(absl::StrCat("the first ", first, " and the last ", last,
                                                   " layers are to be protected; give 0 or more"));
  }
  if (first + last > 0 && first + last >= layers) {
    return absl::InvalidArgumentError(absl::StrCat(
        "protecting the first ", first, " and the last ", last,
        " layers leaves none of the model's ", layers,
        " layers with KV of their own in the chosen formats; protect fewer, or choose ",
        std::string(KvFormatName(formats.protect_format)), " for all"));
  }
  const KvFormat protection = formats.protect_format;
  if (protection != KvFormat::kBf16 && protection != KvFormat::kF16 &&
      protection != KvFormat::kQ8) {
    return absl::InvalidArgumentError(absl::StrCat("layers can not be protected by ",
                                                   std::string(KvFormatName(protection)),
                                                   "; use bf16, f16 or q8"));
  }
  std::vector<KvPair> pairs;
  for (int64_t i = 0; i < layers; ++i) {
    KvPair pair = formats.groups[groups[i]];
    if (i < first || i >= layers - last) {
      pair = {Protected(pair.k, protection), Protected(pair.v, protection)};
    }
    pairs.push_back(pair);
  }
  return pairs;
}

std::string FormatsText(const KvFormats& formats) {
  return absl::StrCat("sliding ", PairText(formats.groups[0]), ", full ",
                      PairText(formats.groups[1]), ", first ", formats.protect_first, ", last ",
                      formats.protect_last, " as ",
                      std::string(KvFormatName(formats.protect_format)));
}

std::string FormatVector(const KvFormats& formats, int block_tokens) {
  return absl::StrCat(FormatsText(formats), ", blocks of ", block_tokens, ", numerics ",
                      kNumericsVersion);
}

}  // namespace tandem::kvcache
