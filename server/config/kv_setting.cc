#include "server/config/kv_setting.h"

#include <algorithm>
#include <array>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/config/nearest_name.h"

namespace tandem::server {
namespace {

using kernels::KvFormat;
using kvcache::KvFormats;
using kvcache::KvPair;

constexpr std::array<std::string_view, kernels::kNumKvFormats + 5> kTypeNames = {
    "f32",    "bf16",  "f16",  "q8",       "turbo4",  "turbo3",
    "turbo2", "exact", "safe", "balanced", "compact", "max"};
constexpr std::span<const std::string_view> kFormatNames =
    std::span(kTypeNames).first<kernels::kNumKvFormats>();
constexpr std::span<const std::string_view> kPresetNames =
    std::span(kTypeNames).subspan<kernels::kNumKvFormats>();

// The part of "K/V" that is no format; empty when both are.
std::string_view UnknownPart(std::string_view text) {
  const size_t slash = text.find('/');
  const std::string_view k = text.substr(0, slash);
  if (!kvcache::KvFormatOf(k).has_value()) return k;
  if (slash == std::string_view::npos) return "";
  const std::string_view v = text.substr(slash + 1);
  return kvcache::KvFormatOf(v).has_value() ? "" : v;
}

absl::Status Unknown(std::string_view part, std::span<const std::string_view> known,
                     std::string why) {
  const std::string_view nearest = NearestName(part, known);
  if (!nearest.empty()) absl::StrAppend(&why, " (did you mean ", std::string(nearest), "?)");
  return absl::InvalidArgumentError(why);
}

std::string Joined(std::span<const std::string_view> names) {
  std::string text;
  for (const std::string_view name : names) {
    absl::StrAppend(&text, text.empty() ? "" : ", ", std::string(name));
  }
  return text;
}

std::string FormatsKnown() { return "the formats are " + Joined(kFormatNames); }

std::string PairText(const KvPair& pair) {
  const std::string k(kvcache::KvFormatName(pair.k));
  return pair.k == pair.v ? k : absl::StrCat(k, "/", std::string(kvcache::KvFormatName(pair.v)));
}

// What --kv-type alone says; only presets protect.
KvFormats BaseFormats(const Settings& settings) {
  std::string type = settings.kv_type;
  if (type == "auto") type = settings.dtype == "f32" ? "f32" : "q8";
  if (const std::optional<KvFormats> preset = kvcache::PresetFormats(type)) return *preset;
  KvFormats formats;
  formats.groups.fill(kvcache::ParseKvPair(type).value());
  return formats;
}

}  // namespace

std::span<const std::string_view> KvTypeNames() { return kTypeNames; }

absl::Status CheckKvType(std::string_view text) {
  if (text == "auto" || kvcache::PresetFormats(text).has_value()) return absl::OkStatus();
  const std::string_view unknown = UnknownPart(text);
  if (unknown.empty() && kvcache::ParseKvPair(text).ok()) return absl::OkStatus();
  return Unknown(
      unknown, text.find('/') == std::string_view::npos ? kTypeNames : kFormatNames,
      absl::StrCat(FormatsKnown(), ", one or two as K/V; the presets ", Joined(kPresetNames)));
}

absl::Status CheckKvPair(std::string_view text) {
  const std::string_view unknown = UnknownPart(text);
  if (unknown.empty() && kvcache::ParseKvPair(text).ok()) return absl::OkStatus();
  return Unknown(unknown, kFormatNames, absl::StrCat(FormatsKnown(), ", one or two as K/V"));
}

absl::Status CheckKvFormat(std::string_view text) {
  if (kvcache::KvFormatOf(text).has_value()) return absl::OkStatus();
  return Unknown(text, kFormatNames, FormatsKnown());
}

KvFormats KvFormatsOf(const Settings& settings) {
  KvFormats formats = BaseFormats(settings);
  for (KvPair& pair : formats.groups) {
    if (!settings.kv_type_k.empty()) pair.k = kvcache::KvFormatOf(settings.kv_type_k).value();
    if (!settings.kv_type_v.empty()) pair.v = kvcache::KvFormatOf(settings.kv_type_v).value();
  }
  if (!settings.kv_sliding_type.empty()) {
    formats.groups[0] = kvcache::ParseKvPair(settings.kv_sliding_type).value();
  }
  const kvcache::Protection needed = kvcache::DefaultProtection(formats.groups);
  formats.protect_first = std::max(formats.protect_first, needed.first);
  formats.protect_last = std::max(formats.protect_last, needed.last);
  if (settings.kv_protect_first >= 0) formats.protect_first = settings.kv_protect_first;
  if (settings.kv_protect_last >= 0) formats.protect_last = settings.kv_protect_last;
  formats.protect_format = kvcache::KvFormatOf(settings.kv_protect_type).value();
  return formats;
}

std::string KvText(const KvFormats& formats) {
  std::string text = PairText(formats.groups[1]);
  if (formats.groups[0] != formats.groups[1]) {
    absl::StrAppend(&text, ", sliding ", PairText(formats.groups[0]));
  }
  const std::string protection(kvcache::KvFormatName(formats.protect_format));
  const int first = formats.protect_first;
  const int last = formats.protect_last;
  if (first > 0 && last > 0) {
    absl::StrAppendFormat(&text, ", first %d and last %d layers %s", first, last, protection);
  } else if (first + last > 0) {
    absl::StrAppendFormat(&text, ", %s %d layer%s %s", first > 0 ? "first" : "last", first + last,
                          first + last == 1 ? "" : "s", protection);
  }
  return text;
}

}  // namespace tandem::server
