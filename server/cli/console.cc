#include "server/cli/console.h"

#include <spdlog/spdlog.h>

#include <chrono>
#include <cstdio>

#include "absl/strings/str_format.h"

namespace tandem::server {
namespace {

void WriteError(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

void Console::Note(std::string_view label, std::string_view text, std::string_view event) const {
  if (terminal_.interactive) {
    WriteError(absl::StrFormat("%-8s%s\n", std::string(label), std::string(text)));
  } else if (!quiet_) {
    spdlog::info("{}: {}", label, event);
  }
}

void Console::Warn(std::string_view text) const { spdlog::warn("{}", text); }

std::unique_ptr<Progress> Console::StartProgress() const {
  const auto log = [](std::string_view event) { spdlog::info("{}", event); };
  if (terminal_.interactive) {
    return std::make_unique<Progress>(terminal_, WriteError, MonotonicSeconds);
  }
  return std::make_unique<Progress>(terminal_, log, MonotonicSeconds);
}

double MonotonicSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace tandem::server
