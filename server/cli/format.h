// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace tandem::server {

std::string BytesText(double bytes);      // "512 B", "1.5 KiB", "7.9 GiB"
std::string CountText(int64_t count);     // "98 304"
std::string ParametersText(uint64_t n);   // "4.63 B", "12.6 M"
std::string SecondsText(double seconds);  // "85 ms", "4.8 s", "2 min 5 s"

std::string UtcDate();  // of now: "2026-11-21T15:41:17Z"

}  // namespace tandem::server
