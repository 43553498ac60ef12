// The lines of `tandem chat` that begin with a slash.
//
// Not here  what they do to the conversation (chat_repl.h).
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/cli/chat_backend.h"

namespace tandem::server {

struct ChatCommand {
  enum class Kind { kHelp, kReset, kSystem, kSet, kStats, kSave, kQuit };
  Kind kind = Kind::kHelp;
  std::string argument;  // the rest of the line, without blanks around it
};

// `line` begins with a slash.
//   errors  kInvalidArgument for an unknown command (with the nearest one), or an argument that is
//           missing or not wanted
absl::StatusOr<ChatCommand> ParseChatCommand(std::string_view line);

// What /help prints.
std::string ChatHelp();

// "NAME VALUE" of /set into `settings`; the value "default" takes it back to the model's.
//   errors  kInvalidArgument with the value and what is allowed
absl::Status SetChatSetting(std::string_view words, ChatSettings& settings);

// "temperature 0.7  top_k default ...", for /set alone.
std::string ChatSettingsText(const ChatSettings& settings);

}  // namespace tandem::server
