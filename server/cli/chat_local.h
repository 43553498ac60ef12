// `tandem chat` with the model in this process.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "server/cli/chat_backend.h"
#include "server/cli/console.h"
#include "server/config/settings.h"

namespace tandem::server {

// A loaded model that answers one conversation. Members of `backend` are valid as long as it lives.
class LocalChat {
 public:
  // Loads what the settings say, with the lines and the bar of the console.
  //   errors  as `tandem run`; kFailedPrecondition for a model that was not trained to chat
  static absl::StatusOr<std::unique_ptr<LocalChat>> Load(const Settings& settings,
                                                         const Console& console);
  ~LocalChat();
  LocalChat(const LocalChat&) = delete;
  LocalChat& operator=(const LocalChat&) = delete;

  const ChatBackend& backend() const;

 private:
  struct Impl;
  explicit LocalChat(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::server
