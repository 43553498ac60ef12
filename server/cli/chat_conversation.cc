#include "server/cli/chat_conversation.h"

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/text/utf8.h"

namespace tandem::server {
namespace {

using nlohmann::ordered_json;

constexpr std::streamsize kMaxFileBytes = 16 << 20;

size_t BytesOf(const ChatMessage& message) {
  return message.content.size() + message.reasoning.size();
}

absl::Status Wrong(size_t index, const char* what) {
  return absl::InvalidArgumentError(absl::StrFormat("messages[%d]%s", index, what));
}

absl::StatusOr<std::string> TextOf(const ordered_json& message, const char* key, size_t index) {
  const auto found = message.find(key);
  if (found == message.end() || found->is_null()) return std::string();
  if (!found->is_string()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("messages[%d].%s is not a string", index, key));
  }
  return found->get<std::string>();
}

}  // namespace

std::vector<ChatMessage> MessagesOf(const Conversation& conversation) {
  std::vector<ChatMessage> messages;
  if (!conversation.system.empty()) {
    messages.push_back({.role = ChatRole::kSystem, .content = conversation.system});
  }
  messages.insert(messages.end(), conversation.turns.begin(), conversation.turns.end());
  return messages;
}

size_t CutOldest(Conversation& conversation, double keep) {
  std::vector<ChatMessage>& turns = conversation.turns;
  size_t bytes = 0;
  for (const ChatMessage& message : turns) bytes += BytesOf(message);
  const double limit = keep * static_cast<double>(bytes);
  size_t cut = 0;
  while (cut + 1 < turns.size()) {
    const bool at_user = turns[cut].role == ChatRole::kUser;
    if (cut > 0 && at_user && static_cast<double>(bytes) <= limit) break;
    bytes -= BytesOf(turns[cut]);
    ++cut;
  }
  turns.erase(turns.begin(), turns.begin() + static_cast<std::ptrdiff_t>(cut));
  return cut;
}

std::string ConversationJson(const Conversation& conversation) {
  ordered_json messages = ordered_json::array();
  for (const ChatMessage& message : MessagesOf(conversation)) {
    const char* const role = message.role == ChatRole::kSystem ? "system"
                             : message.role == ChatRole::kUser ? "user"
                                                               : "assistant";
    ordered_json entry = {{"role", role}};
    if (!message.reasoning.empty()) entry["reasoning"] = message.reasoning;
    entry["content"] = message.content;
    messages.push_back(std::move(entry));
  }
  return ordered_json{{"messages", std::move(messages)}}.dump(
             2, ' ', false, ordered_json::error_handler_t::replace) +
         "\n";
}

absl::StatusOr<Conversation> ParseConversation(std::string_view json) {
  const ordered_json root = ordered_json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) return absl::InvalidArgumentError("it is not JSON");
  if (!root.is_object() || !root.contains("messages") || !root["messages"].is_array()) {
    return absl::InvalidArgumentError("there is no list \"messages\" in it");
  }
  Conversation conversation;
  const ordered_json& messages = root["messages"];
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object()) return Wrong(i, " is not an object");
    absl::StatusOr<std::string> role = TextOf(messages[i], "role", i);
    absl::StatusOr<std::string> content = TextOf(messages[i], "content", i);
    absl::StatusOr<std::string> reasoning = TextOf(messages[i], "reasoning", i);
    for (const auto* text : {&role, &content, &reasoning}) {
      if (!text->ok()) return text->status();
    }
    if (*role == "system") {
      if (i > 0) return Wrong(i, ".role is system; only the first message may be");
      conversation.system = *std::move(content);
    } else if (*role == "user") {
      conversation.turns.push_back({.role = ChatRole::kUser, .content = *std::move(content)});
    } else if (*role == "assistant") {
      conversation.turns.push_back({.role = ChatRole::kAssistant,
                                    .content = *std::move(content),
                                    .reasoning = *std::move(reasoning)});
    } else {
      return Wrong(i, ".role must be system, user or assistant");
    }
  }
  return conversation;
}

absl::Status SaveConversation(const Conversation& conversation, const std::string& path) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file << ConversationJson(conversation);
  file.close();
  if (!file) return absl::UnavailableError("cannot write the file " + path);
  return absl::OkStatus();
}

absl::StatusOr<Conversation> LoadConversation(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::NotFoundError("cannot read the file " + path);
  if (file.tellg() > kMaxFileBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is larger than %d MiB", path, kMaxFileBytes >> 20));
  }
  file.seekg(0);
  std::stringstream text;
  text << file.rdbuf();
  if (!IsValidUtf8(text.str())) return absl::InvalidArgumentError(path + ": not valid UTF-8");
  absl::StatusOr<Conversation> conversation = ParseConversation(text.str());
  if (!conversation.ok()) {
    return absl::InvalidArgumentError(path + ": " + std::string(conversation.status().message()));
  }
  return conversation;
}

}  // namespace tandem::server
