#include "server/grpc/request_id.h"

#include <algorithm>
#include <chrono>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/grpc/request_errors.h"

namespace tandem::server {

absl::Status CheckRequestId(std::string_view field, std::string_view id) {
  if (id.size() > 128) {
    return BadParameter(field, absl::StrCat("has ", id.size(), " bytes; the limit is 128"));
  }
  if (!std::all_of(id.begin(), id.end(), [](char c) { return c >= '!' && c <= '~'; })) {
    return BadParameter(
        field, absl::StrCat("is ", Printable(id), "; it must be printable ASCII without spaces"));
  }
  return absl::OkStatus();
}

std::string FormatUuidV7(int64_t unix_ms, uint64_t random_high, uint64_t random_low) {
  const uint64_t ms = static_cast<uint64_t>(unix_ms) & 0xFFFF'FFFF'FFFF;
  const uint64_t variant = (random_low & 0x3FFF'FFFF'FFFF'FFFF) | 0x8000'0000'0000'0000;
  return absl::StrFormat("%08x-%04x-%04x-%04x-%012x", ms >> 16, ms & 0xFFFF,
                         0x7000 | (random_high & 0xFFF), variant >> 48, variant & 0xFFFF'FFFF'FFFF);
}

uint64_t RandomBits() {
  thread_local std::mt19937_64 generator = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  return generator();
}

std::string NewRequestId() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t ms = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  return FormatUuidV7(ms, RandomBits(), RandomBits());
}

}  // namespace tandem::server
