#include "server/chat/render_chat.h"

#include <string_view>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "scheduler/status_reason.h"
#include "server/chat/json_value.h"
#include "server/chat/span_text.h"
#include "server/chat/tool_format.h"
#include "server/chat/tool_name.h"
#include "server/text/utf8.h"

namespace tandem::server {
namespace {

absl::Status Refuse(const std::string& field, const std::string& problem) {
  return WithReason(absl::InvalidArgumentError(absl::StrCat(field, " ", problem)),
                    {.reason = "BAD_PARAMETER", .metadata = {}, .field = field});
}

std::string MessageField(size_t i, const std::string& member) {
  return absl::StrCat("messages[", i, "].", member);
}

bool IsSystem(ChatRole role) { return role == ChatRole::kSystem || role == ChatRole::kDeveloper; }

absl::Status CheckToolName(const std::string& field, std::string_view name) {
  if (IsToolName(name)) return absl::OkStatus();
  return Refuse(field, absl::StrCat("is ", Quoted(name), " but must be 1 to ", kMaxToolNameBytes,
                                    " characters out of A-Z a-z 0-9 _ - ."));
}

// `calls_before`: the last message before this one that is not a tool's called some.
absl::Status CheckMessage(size_t i, const ChatMessage& message, bool calls_before) {
  const bool is_assistant = message.role == ChatRole::kAssistant;
  if (IsSystem(message.role) && i > 0) {
    return Refuse(MessageField(i, "role"),
                  "is SYSTEM or DEVELOPER, which only the first message may be");
  }
  if (message.role == ChatRole::kTool && !calls_before) {
    return Refuse(MessageField(i, "role"),
                  "is TOOL but no assistant message with tool_calls comes before it");
  }
  if (!is_assistant && !message.reasoning.empty()) {
    return Refuse(MessageField(i, "reasoning"), "is set but only an ASSISTANT message has any");
  }
  if (!is_assistant && !message.tool_calls.empty()) {
    return Refuse(MessageField(i, "tool_calls"), "is set but only an ASSISTANT message has any");
  }
  if (message.role != ChatRole::kTool && !message.tool_call_id.empty()) {
    return Refuse(MessageField(i, "tool_call_id"), "is set but only a TOOL message has one");
  }
  if (message.role == ChatRole::kTool && !message.name.empty()) {
    if (absl::Status s = CheckToolName(MessageField(i, "name"), message.name); !s.ok()) return s;
  }
  for (size_t j = 0; j < message.tool_calls.size(); ++j) {
    const std::string field = MessageField(i, absl::StrCat("tool_calls[", j, "].name"));
    if (absl::Status s = CheckToolName(field, message.tool_calls[j].name); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status CheckChat(const ChatPrompt& prompt) {
  const size_t count = prompt.messages.size();
  if (count < 1 || count > kMaxChatMessages) {
    return Refuse("messages",
                  absl::StrCat("has ", count, " entries but must have 1 to ", kMaxChatMessages));
  }
  bool calls_before = false;
  for (size_t i = 0; i < count; ++i) {
    const ChatMessage& message = prompt.messages[i];
    if (absl::Status s = CheckMessage(i, message, calls_before); !s.ok()) return s;
    if (message.role != ChatRole::kTool) calls_before = !message.tool_calls.empty();
  }
  if (prompt.continue_final_message && prompt.messages.back().role != ChatRole::kAssistant) {
    return Refuse(
        "continue_final_message",
        "is true but the last message is not an ASSISTANT's; there is nothing to continue");
  }
  return absl::OkStatus();
}

// JSON of a field that must be an object; empty and null count as null.
absl::StatusOr<JsonValue> ParseObject(const std::string& field, std::string_view json) {
  if (json.empty()) return JsonValue();
  absl::StatusOr<JsonValue> value = ParseJson(json);
  if (!value.ok()) return Refuse(field, std::string(value.status().message()));
  if (!value->is_object() && value->kind != JsonValue::Kind::kNull) {
    return Refuse(field, "is not a JSON object");
  }
  return value;
}

// Without the thought channels: of every part that <channel|> ends, what follows <|channel>.
std::string WithoutThinking(std::string_view content) {
  constexpr std::string_view kOpen = "<|channel>", kClose = "<channel|>";
  std::string out;
  for (;;) {
    const size_t close = content.find(kClose);
    const std::string_view part = content.substr(0, close);
    out += part.substr(0, part.find(kOpen));
    if (close == std::string_view::npos) return out;
    content.remove_prefix(close + kClose.size());
  }
}

// The names of a message's calls by their ids; of two with one id the later counts.
absl::flat_hash_map<std::string_view, std::string_view> NamesById(const ChatMessage& caller) {
  absl::flat_hash_map<std::string_view, std::string_view> names;
  for (const ChatToolCall& call : caller.tool_calls) {
    if (!call.id.empty()) names.insert_or_assign(call.id, call.name);
  }
  return names;
}

class Renderer {
 public:
  Renderer(const ChatPrompt& prompt, const ChatFormat& format) : prompt_(prompt), format_(format) {
    for (size_t i = 0; i < prompt.messages.size(); ++i) {
      if (prompt.messages[i].role == ChatRole::kUser) last_user_ = static_cast<int>(i);
    }
  }

  absl::StatusOr<RenderedChat> Render() {
    out_.Literal("<bos>");
    if (absl::Status s = SystemTurn(); !s.ok()) return s;
    const size_t begin = IsSystem(prompt_.messages[0].role) ? 1 : 0;
    for (size_t i = begin; i < prompt_.messages.size(); ++i) {
      if (prompt_.messages[i].role == ChatRole::kTool) continue;  // stands with the call it answers
      if (absl::Status s = Message(i); !s.ok()) return s;
    }
    const bool add_prompt = prompt_.add_generation_prompt && !prompt_.continue_final_message;
    const bool starts_in_reasoning = add_prompt && GenerationPrompt();
    return RenderedChat{.text = out_.text(),
                        .client_spans = out_.client_spans(),
                        .starts_in_reasoning = starts_in_reasoning};
  }

 private:
  // What was written last, as far as it decides what the model is to write next.
  enum class Last { kText, kCall, kResponse };

  void CloseTurn() {
    out_.Literal("<turn|>\n");
    turn_is_open_ = false;
  }

  absl::Status SystemTurn() {
    const ChatMessage& first = prompt_.messages[0];
    if (!prompt_.enable_thinking && prompt_.tools.empty() && !IsSystem(first.role)) {
      return absl::OkStatus();
    }
    out_.Literal("<|turn>system\n");
    if (prompt_.enable_thinking) out_.Literal("<|think|>\n");
    if (IsSystem(first.role)) out_.Client(PythonStrip(first.content));
    for (size_t i = 0; i < prompt_.tools.size(); ++i) {
      const ChatTool& tool = prompt_.tools[i];
      const std::string field = absl::StrCat("tools[", i, "].");
      if (absl::Status s = CheckToolName(field + "name", tool.name); !s.ok()) return s;
      const absl::StatusOr<JsonValue> parameters =
          ParseObject(field + "parameters_json", tool.parameters_json);
      if (!parameters.ok()) return parameters.status();
      AppendDeclaration(tool.name, tool.description, *parameters, out_);
    }
    CloseTurn();
    return absl::OkStatus();
  }

  // Message i, which is neither the first of a system nor a tool's, with the answers to its calls.
  absl::Status Message(size_t i) {
    const ChatMessage& message = prompt_.messages[i];
    const bool is_model = message.role == ChatRole::kAssistant;
    if (!is_model || !after_assistant_) {
      out_.Literal(is_model ? "<|turn>model\n" : "<|turn>user\n");
    }
    turn_is_open_ = true;
    last_ = Last::kText;

    const bool keeps_thought = static_cast<int>(i) > last_user_ ||
                               (prompt_.preserve_thinking && !message.tool_calls.empty());
    if (!message.reasoning.empty() && keeps_thought) {
      out_.Literal("<|channel>thought\n");
      out_.Client(message.reasoning);
      out_.Literal("\n<channel|>");
    }

    for (size_t j = 0; j < message.tool_calls.size(); ++j) {
      const ChatToolCall& call = message.tool_calls[j];
      const absl::StatusOr<JsonValue> arguments = ParseObject(
          MessageField(i, absl::StrCat("tool_calls[", j, "].arguments_json")), call.arguments_json);
      if (!arguments.ok()) return arguments.status();
      AppendCall(call.name, *arguments, out_);
      last_ = Last::kCall;
    }
    const auto names = NamesById(message);
    size_t next = i + 1;
    for (; next < prompt_.messages.size() && prompt_.messages[next].role == ChatRole::kTool;
         ++next) {
      const ChatMessage& answer = prompt_.messages[next];
      const auto called = names.find(answer.tool_call_id);
      std::string_view name = "unknown";
      if (called != names.end()) {
        name = called->second;
      } else if (!answer.name.empty()) {
        name = answer.name;
      }
      AppendResponse(name, answer.content, out_);
      last_ = Last::kResponse;
    }

    const std::string stripped = is_model ? WithoutThinking(message.content) : message.content;
    const std::string_view content = PythonStrip(stripped);
    out_.Client(content);
    EndMessage(message, content.empty(), next);
    after_assistant_ = is_model;
    return absl::OkStatus();
  }

  // `next` is the message after the answers to this one's calls.
  void EndMessage(const ChatMessage& message, bool is_blank, size_t next) {
    const bool is_last = next == prompt_.messages.size();
    if (is_last && prompt_.continue_final_message) return;
    if (last_ == Last::kCall) return out_.Literal("<|tool_response>");
    const bool answered = last_ == Last::kResponse;
    const bool goes_on = message.role == ChatRole::kAssistant && !is_last &&
                         prompt_.messages[next].role == ChatRole::kAssistant;
    if (goes_on || (answered && is_blank && is_last)) return;
    CloseTurn();
  }

  // Where the model is to start; returns whether that is inside a thought channel.
  bool GenerationPrompt() {
    if (last_ == Last::kText || (last_ == Last::kResponse && !turn_is_open_)) {
      out_.Literal("<|turn>model\n");
      if (format_.empty_thought && !prompt_.enable_thinking) {
        out_.Literal("<|channel>thought\n<channel|>");
      }
      return false;
    }
    if (last_ != Last::kResponse || !prompt_.enable_thinking) return false;
    out_.Literal("<|channel>thought\n");
    return true;
  }

  const ChatPrompt& prompt_;
  const ChatFormat& format_;
  SpanText out_;
  Last last_ = Last::kText;
  bool turn_is_open_ = false;
  bool after_assistant_ = false;  // the last message that is not a tool's
  int last_user_ = -1;            // index of the last user's message; -1 without one
};

}  // namespace

absl::StatusOr<RenderedChat> RenderChat(const ChatPrompt& prompt, const ChatFormat& format) {
  if (absl::Status s = CheckChat(prompt); !s.ok()) return s;
  return Renderer(prompt, format).Render();
}

}  // namespace tandem::server
