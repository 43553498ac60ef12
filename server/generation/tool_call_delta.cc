#include "server/generation/tool_call_delta.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace tandem::server {

std::string ToolCallId(std::string_view request_id, int choice, int call_index) {
  // FNV-1a, 64 bits: the same in every build. The places of choice and call are set off by a byte
  // that no request id contains.
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&](std::string_view text) {
    for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  };
  add(request_id);
  add(absl::StrCat("\n", choice, "\n", call_index));
  return absl::StrCat("call_", absl::Hex(hash, absl::kZeroPad16));
}

}  // namespace tandem::server
