#include "server/cli/chat_command.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "absl/strings/str_format.h"
#include "server/config/nearest_name.h"
#include "server/config/option_table.h"
#include "server/config/option_value.h"

namespace tandem::server {
namespace {

using Kind = ChatCommand::Kind;

struct CommandSpec {
  std::string_view name;
  Kind kind;
  std::string_view argument;  // of the help; empty: takes none; in brackets: may be left out
  std::string_view help;
};

constexpr std::array<CommandSpec, 8> kCommands = {{
    {"/help", Kind::kHelp, "", "this list"},
    {"/reset", Kind::kReset, "", "forget the conversation; system text and settings stay"},
    {"/system", Kind::kSystem, "[TEXT]", "what the model is told first; without TEXT, nothing"},
    {"/set", Kind::kSet, "[NAME VALUE]", "temperature, top_k, top_p, max_tokens, seed, thinking"},
    {"/stats", Kind::kStats, "", "what was said so far, in numbers"},
    {"/save", Kind::kSave, "FILE", "write the conversation; tandem chat --load FILE goes on"},
    {"/quit", Kind::kQuit, "", "leave, as Ctrl-D does"},
    {"/exit", Kind::kQuit, "", ""},
}};

// The settings of /set; all but `thinking` are options of the command line, too.
constexpr std::array<std::string_view, 6> kSettings = {"temperature", "top_k", "top_p",
                                                       "max_tokens",  "seed",  "thinking"};

std::string Str(std::string_view text) { return std::string(text); }

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

absl::Status UnknownCommand(std::string_view name) {
  std::vector<std::string_view> names;
  for (const CommandSpec& command : kCommands) names.push_back(command.name);
  const std::string_view nearest = NearestName(name, names);
  std::string message = Str(name.substr(0, 64)) + " is not a command";
  if (!nearest.empty()) message += "; did you mean " + Str(nearest) + "?";
  return absl::InvalidArgumentError(
      message + " (/help lists them; a message that begins with / is written with two: //)");
}

absl::Status UnknownSetting(std::string_view name) {
  const std::string_view nearest = NearestName(name, kSettings);
  std::string message = "there is no setting '" + Str(name.substr(0, 64)) + "'";
  if (nearest.empty()) {
    message += "; there are temperature, top_k, top_p, max_tokens, seed and thinking";
  } else {
    message += "; did you mean " + Str(nearest) + "?";
  }
  return absl::InvalidArgumentError(message);
}

absl::Status SetThinking(std::string_view value, ChatSettings& settings) {
  if (value != "on" && value != "off" && value != "default") {
    return absl::InvalidArgumentError("thinking is '" + Str(value) + "'; it can be on or off");
  }
  settings.thinking = value == "on";
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ChatCommand> ParseChatCommand(std::string_view line) {
  const size_t end = std::min(line.find_first_of(" \t"), line.size());
  const std::string_view name = line.substr(0, end);
  const std::string_view argument = Trimmed(line.substr(end));
  for (const CommandSpec& command : kCommands) {
    if (command.name != name) continue;
    if (command.argument.empty() && !argument.empty()) {
      return absl::InvalidArgumentError(Str(name) + " takes nothing behind it");
    }
    if (!command.argument.empty() && command.argument[0] != '[' && argument.empty()) {
      return absl::InvalidArgumentError(Str(name) + " needs " + Str(command.argument));
    }
    return ChatCommand{.kind = command.kind, .argument = Str(argument)};
  }
  return UnknownCommand(name);
}

std::string ChatHelp() {
  std::string text;
  for (const CommandSpec& command : kCommands) {
    if (command.help.empty()) continue;
    text += absl::StrFormat("  %-20s %s\n", Str(command.name) + " " + Str(command.argument),
                            Str(command.help));
  }
  return text +
         "  Ctrl-C               stop the answer; what came of it stays\n"
         "  \\ at a line's end    the message goes on in the next line\n"
         "  \"\"\"                  a message of several lines follows, up to \"\"\" again\n";
}

absl::Status SetChatSetting(std::string_view words, ChatSettings& settings) {
  const size_t end = std::min(words.find_first_of(" \t"), words.size());
  const std::string_view name = words.substr(0, end);
  const std::string value = Str(Trimmed(words.substr(end)));
  if (std::find(kSettings.begin(), kSettings.end(), name) == kSettings.end()) {
    return UnknownSetting(name);
  }
  if (value.empty()) {
    return absl::InvalidArgumentError("/set " + Str(name) + " needs a value, such as default");
  }
  if (name == "thinking") return SetThinking(value, settings);

  std::string option_name = Str(name);
  std::replace(option_name.begin(), option_name.end(), '_', '-');
  const OptionSpec* const option = FindOption(Verb::kChat, option_name);
  Settings parsed;
  if (value != "default") {
    const absl::Status status = StoreValue(*option, {&value, 1}, name, parsed);
    if (!status.ok()) return status;
  }
  if (name == "temperature") settings.temperature = parsed.run.temperature;
  if (name == "top_k") settings.top_k = parsed.run.top_k;
  if (name == "top_p") settings.top_p = parsed.run.top_p;
  if (name == "max_tokens") settings.max_tokens = parsed.run.max_tokens;
  if (name == "seed") settings.seed = parsed.run.seed;
  return absl::OkStatus();
}

std::string ChatSettingsText(const ChatSettings& settings) {
  const auto number = [](const std::optional<double>& value) {
    return value.has_value() ? absl::StrFormat("%g", *value) : std::string("default");
  };
  return absl::StrFormat("temperature %s  top_k %s  top_p %s  max_tokens %s  seed %s  thinking %s",
                         number(settings.temperature),
                         settings.top_k.has_value() ? std::to_string(*settings.top_k) : "default",
                         number(settings.top_p),
                         settings.max_tokens > 0 ? std::to_string(settings.max_tokens) : "default",
                         settings.seed.has_value() ? std::to_string(*settings.seed) : "random",
                         settings.thinking ? "on" : "off");
}

}  // namespace tandem::server
