#include "server/config/device_setting.h"

#include <array>
#include <charconv>

#include "absl/strings/str_cat.h"
#include "server/config/kv_setting.h"
#include "server/config/nearest_name.h"

namespace tandem::server {
namespace {

using Kind = DeviceSetting::Kind;

#ifdef TANDEM_EMULATED_DEVICE
constexpr bool kHasEmulated = true;
#else
constexpr bool kHasEmulated = false;
#endif

constexpr std::array<std::string_view, 3> kNames = {"auto", "cpu", "cuda"};
constexpr std::string_view kIndexed = "cuda:";

absl::Status Unknown(std::string_view text) {
  std::string why = "auto, cpu, cuda or cuda:N is expected, N a device's number from 0";
  const std::string_view nearest = NearestName(text, kNames);
  if (!nearest.empty()) absl::StrAppend(&why, " (did you mean ", std::string(nearest), "?)");
  return absl::InvalidArgumentError(why);
}

}  // namespace

absl::StatusOr<DeviceSetting> ParseDevice(std::string_view text) {
  if (text == "auto") return DeviceSetting{Kind::kAuto};
  if (text == "cpu") return DeviceSetting{Kind::kCpu};
  if (text == "cuda") return DeviceSetting{Kind::kCuda};
  if (kHasEmulated && text == "emu") return DeviceSetting{Kind::kEmulated};
  if (!text.starts_with(kIndexed)) return Unknown(text);
  const std::string_view number = text.substr(kIndexed.size());
  DeviceSetting setting = {Kind::kCuda};
  const char* const end = number.data() + number.size();
  const auto [read, error] = std::from_chars(number.data(), end, setting.index);
  if (error != std::errc() || read != end || setting.index < 0) return Unknown(text);
  return setting;
}

absl::Status CheckDeviceName(std::string_view text) { return ParseDevice(text).status(); }

DeviceSetting DeviceOf(const Settings& settings) { return ParseDevice(settings.device).value(); }

std::string F32Option(const Settings& settings) {
  if (settings.dtype == "f32") return "--dtype f32";
  if (settings.kv_type_k == "f32") return "--kv-type-k f32";
  if (settings.kv_type_v == "f32") return "--kv-type-v f32";
  const kvcache::KvFormats formats = KvFormatsOf(settings);
  const auto has_f32 = [&](int group) {
    const kvcache::KvPair& pair = formats.groups[group];
    return pair.k == kernels::KvFormat::kF32 || pair.v == kernels::KvFormat::kF32;
  };
  if (has_f32(0) && !settings.kv_sliding_type.empty()) {
    return absl::StrCat("--kv-sliding-type ", settings.kv_sliding_type);
  }
  if (has_f32(0) || has_f32(1)) return absl::StrCat("--kv-type ", settings.kv_type);
  return "";
}

}  // namespace tandem::server
