// One option's value as text: reading it into a Settings, and writing it.
//
// Not here  where the text comes from (resolve.h).
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/config/option_table.h"
#include "server/config/settings.h"

namespace tandem::server {

// Stores `values` (one, but for a list option) as the option's value.
//   where   what the user wrote it as, for messages: "--max-slots", "TANDEM_MAX_SLOTS",
//           "tandem.toml:3:1: max_slots"
//   errors  kInvalidArgument with `where`, the value, and the range or the choices
absl::Status StoreValue(const OptionSpec& option, std::span<const std::string> values,
                        std::string_view where, Settings& settings);

// True for lists: they may be given several values.
bool IsList(const OptionSpec& option);
// True for flags without a value.
bool IsSwitch(const OptionSpec& option);
// True when the value is a number, or a list of numbers.
bool IsNumber(const OptionSpec& option);

// The value as a user would write it ("16", "4GiB", "a,b"); empty when there is none.
std::string ValueText(const OptionSpec& option, const Settings& settings);
// The value as TOML: 16, "bf16", ["0.0.0.0:50051"].
std::string ValueToml(const OptionSpec& option, const Settings& settings);
// The default as --help shows it: the value, or what its absence means. Empty for switches.
std::string DefaultText(const OptionSpec& option);

// "4GiB", "4G", "4GB" (10^9), "512MiB", "1048576", "60%", "auto". At least 1 MiB.
absl::StatusOr<MemoryAmount> ParseMemoryAmount(std::string_view text);

}  // namespace tandem::server
