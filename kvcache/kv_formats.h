// Which KV format which layer has: names, presets, protected layers.
//
// Protection counts the layers that have KV of their own, in model order over both kinds: the
// donors that many other layers and the drafter read are the last of them (turboquant 3.6).
//
// Not here  what a format's bytes are (kernels/types.h, layout.h); options (server/config).
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/types.h"

namespace tandem::kvcache {

struct KvPair {
  kernels::KvFormat k = kernels::KvFormat::kQ8;
  kernels::KvFormat v = kernels::KvFormat::kQ8;
  bool operator==(const KvPair&) const = default;
};

struct KvFormats {
  std::array<KvPair, 2> groups;  // [0] sliding, [1] full
  // So many layers from the model's first and last on have protect_format instead, but a side that
  // is f32, bf16 or f16 stays so.
  int protect_first = 0;
  int protect_last = 0;
  kernels::KvFormat protect_format = kernels::KvFormat::kQ8;
  bool operator==(const KvFormats&) const = default;
};

std::string_view KvFormatName(kernels::KvFormat format);  // "turbo4"
std::optional<kernels::KvFormat> KvFormatOf(std::string_view name);

// "q8/turbo4", K first; one name stands for both.
//   errors  kInvalidArgument, with the names there are
absl::StatusOr<KvPair> ParseKvPair(std::string_view text);

// The presets exact, safe, balanced, compact and max (turboquant 7.1); nothing for other names.
std::optional<KvFormats> PresetFormats(std::string_view name);

// How many layers to protect when nothing else is said (turboquant 7.1).
struct Protection {
  int first = 0;
  int last = 0;
  bool operator==(const Protection&) const = default;
};
Protection DefaultProtection(const std::array<KvPair, 2>& groups);

// The formats of every layer with KV of its own.
//   groups   [layers] in model order: 0 sliding, 1 full
//   errors   kInvalidArgument when all layers would be protected, for a negative count and for a
//            protect_format other than bf16, f16 and q8
absl::StatusOr<std::vector<KvPair>> LayerFormats(const KvFormats& formats,
                                                 std::span<const int> groups);

// "sliding q8/turbo4, full q8/q8, first 0, last 2 as q8": equal for equal formats only.
std::string FormatsText(const KvFormats& formats);

// The `formats` of RootKey: FormatsText and whatever else the bytes of a row depend on.
std::string FormatVector(const KvFormats& formats, int block_tokens);

}  // namespace tandem::kvcache
