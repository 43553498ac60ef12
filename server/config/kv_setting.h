// The KV formats that --kv-type and its companions ask for.
//
// Not here  what formats and presets there are (kvcache/kv_formats.h); what they cost
// (server/cli/kv_footprint.h).
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "kvcache/kv_formats.h"
#include "server/config/settings.h"

namespace tandem::server {

// As --kv-type takes them: every format, then the presets.
std::span<const std::string_view> KvTypeNames();

// Checks of the options' values; the message says what is known.
absl::Status CheckKvType(std::string_view text);    // auto, a preset, a format or K/V
absl::Status CheckKvPair(std::string_view text);    // a format or K/V
absl::Status CheckKvFormat(std::string_view text);  // a format

// What settings that passed these checks come to. --kv-type-k and --kv-type-v replace a side of
// --kv-type, --kv-sliding-type replaces both sides of the sliding layers. Protected are as many
// layers as the preset says and the formats need, unless their number is given.
kvcache::KvFormats KvFormatsOf(const Settings& settings);

// For people: "turbo4/turbo3, sliding q8, first 2 and last 2 layers q8". One name stands for K and
// V, the full layers' for both groups.
std::string KvText(const kvcache::KvFormats& formats);

}  // namespace tandem::server
