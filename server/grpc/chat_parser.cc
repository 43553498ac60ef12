#include "server/grpc/chat_parser.h"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/chat/json_value.h"
#include "server/grpc/request_errors.h"

namespace tandem::server {
namespace {

constexpr size_t kMaxTextBytes = 4 << 20;  // as of Generate's text
constexpr int kMaxTools = 1024;
constexpr int kMaxToolCalls = 1024;  // of one message
constexpr size_t kMaxTemplateArgBytes = 1024;

// Counts come first: nothing is copied of what is too much.
absl::Status CheckCount(const std::string& field, int count, int limit) {
  if (count <= limit) return absl::OkStatus();
  return BadParameter(field, absl::StrCat("has ", count, " entries; the limit is ", limit));
}

// Where a mistake is, as the client would write it.
std::string At(const std::string& field, int index, const char* member = "") {
  return absl::StrCat(field, "[", index, "]", member);
}

absl::StatusOr<ChatRole> RoleOf(const v1::ChatMessage& message, int index) {
  switch (message.role()) {
    case v1::SYSTEM:
      return ChatRole::kSystem;
    case v1::USER:
      return ChatRole::kUser;
    case v1::ASSISTANT:
      return ChatRole::kAssistant;
    case v1::TOOL:
      return ChatRole::kTool;
    case v1::DEVELOPER:
      return ChatRole::kDeveloper;
    default:
      return BadParameter(At("messages", index, ".role"),
                          absl::StrCat("is ", static_cast<int>(message.role()),
                                       "; set SYSTEM, DEVELOPER, USER, ASSISTANT or TOOL"));
  }
}

// The text of a message, given whole or in parts.
absl::StatusOr<std::string> ContentOf(const v1::ChatMessage& message, int index) {
  if (message.parts().empty()) return message.content();
  if (!message.content().empty()) {
    return BadParameter(At("messages", index, ".parts"),
                        "is set beside content; send the message's text one way or the other");
  }
  std::string text;
  for (int p = 0; p < message.parts_size(); ++p) {
    const v1::ContentPart& part = message.parts(p);
    const std::string path = At(At("messages", index, ".parts"), p);
    switch (part.part_case()) {
      case v1::ContentPart::kText:
        text += part.text();
        break;
      case v1::ContentPart::kImage:
        return Unsupported(path + ".image");
      case v1::ContentPart::kAudio:
        return Unsupported(path + ".audio");
      case v1::ContentPart::PART_NOT_SET:
        return BadParameter(path, "is empty; set text");
    }
  }
  return text;
}

absl::Status ParseMessages(const v1::ChatRequest& proto, ChatPrompt& prompt) {
  if (absl::Status s = CheckCount("messages", proto.messages_size(), kMaxChatMessages); !s.ok()) {
    return s;
  }
  for (int i = 0; i < proto.messages_size(); ++i) {
    const v1::ChatMessage& message = proto.messages(i);
    if (absl::Status s =
            CheckCount(At("messages", i, ".tool_calls"), message.tool_calls_size(), kMaxToolCalls);
        !s.ok()) {
      return s;
    }
    const absl::StatusOr<ChatRole> role = RoleOf(message, i);
    if (!role.ok()) return role.status();
    absl::StatusOr<std::string> content = ContentOf(message, i);
    if (!content.ok()) return content.status();
    ChatMessage& out = prompt.messages.emplace_back();
    out.role = *role;
    out.content = *std::move(content);
    out.reasoning = message.reasoning();
    out.name = message.name();
    out.tool_call_id = message.tool_call_id();
    for (const v1::ToolCall& call : message.tool_calls()) {
      out.tool_calls.push_back(
          {.id = call.id(), .name = call.name(), .arguments_json = call.arguments_json()});
    }
  }
  return absl::OkStatus();
}

absl::Status ParseTools(const v1::ChatRequest& proto, ChatPrompt& prompt) {
  const v1::ToolChoice& choice = proto.tool_choice();
  switch (choice.kind()) {
    case v1::ToolChoice::AUTO:
    case v1::ToolChoice::NONE:
      break;
    case v1::ToolChoice::REQUIRED:  // both need guided decoding
      return Unsupported("tool_choice.kind=REQUIRED");
    case v1::ToolChoice::NAMED:
      return Unsupported("tool_choice.kind=NAMED");
    default:
      return BadParameter("tool_choice.kind", absl::StrCat("is ", static_cast<int>(choice.kind()),
                                                           ", which is no ToolChoice.Kind"));
  }
  if (!choice.name().empty()) {
    return BadParameter("tool_choice.name",
                        absl::StrCat("is ", Printable(choice.name()),
                                     " but tool_choice.kind is not NAMED; leave it empty"));
  }
  if (absl::Status s = CheckCount("tools", proto.tools_size(), kMaxTools); !s.ok()) return s;
  for (const v1::Tool& tool : proto.tools()) {
    prompt.tools.push_back({.name = tool.name(),
                            .description = tool.description(),
                            .parameters_json = tool.parameters_json()});
  }
  return absl::OkStatus();
}

// Arguments of the template that have no field of their own, or one of another name.
absl::Status ParseTemplateArgs(const v1::ChatRequest& proto, ChatPrompt& prompt) {
  std::optional<bool> enable_thinking;
  if (proto.has_enable_thinking()) enable_thinking = proto.enable_thinking();
  for (const auto& [name, json] : proto.template_args_json()) {
    const std::string path = absl::StrCat("template_args_json[", Printable(name), "]");
    if (name != "enable_thinking" && name != "preserve_thinking") {
      return BadParameter(path,
                          "is no argument of this chat template, which knows enable_thinking and "
                          "preserve_thinking");
    }
    if (const absl::Status good = CheckBytes(path, json, kMaxTemplateArgBytes); !good.ok()) {
      return good;
    }
    const absl::StatusOr<JsonValue> value = ParseJson(json);
    if (!value.ok()) return BadParameter(path, std::string(value.status().message()));
    if (value->kind != JsonValue::Kind::kBool) {
      return BadParameter(path, "must be true or false");
    }
    if (name == "preserve_thinking") {
      prompt.preserve_thinking = value->boolean;
    } else if (enable_thinking.value_or(value->boolean) != value->boolean) {
      return BadParameter(path, "contradicts enable_thinking; set one of them");
    } else {
      enable_thinking = value->boolean;
    }
  }
  prompt.enable_thinking = enable_thinking.value_or(false);
  return absl::OkStatus();
}

size_t TextBytes(const ChatPrompt& prompt) {
  size_t bytes = 0;
  for (const ChatMessage& message : prompt.messages) {
    bytes += message.content.size() + message.reasoning.size() + message.name.size();
    for (const ChatToolCall& call : message.tool_calls) {
      bytes += call.name.size() + call.arguments_json.size();
    }
  }
  for (const ChatTool& tool : prompt.tools) {
    bytes += tool.name.size() + tool.description.size() + tool.parameters_json.size();
  }
  return bytes;
}

}  // namespace

absl::StatusOr<RenderedChat> RenderChatRequest(const v1::ChatRequest& proto,
                                               const ServedModel& model) {
  if (!model.has_chat) return Unsupported("chat");
  ChatPrompt prompt;
  absl::Status good = ParseMessages(proto, prompt);
  if (good.ok()) good = ParseTools(proto, prompt);
  if (good.ok()) good = ParseTemplateArgs(proto, prompt);
  if (const size_t bytes = TextBytes(prompt); good.ok() && bytes > kMaxTextBytes) {
    good = BadParameter("messages", absl::StrCat("and tools have ", bytes,
                                                 " bytes of text; the limit is ", kMaxTextBytes));
  }
  if (!good.ok()) return good;
  prompt.add_generation_prompt =
      proto.has_add_generation_prompt() ? proto.add_generation_prompt() : true;
  prompt.continue_final_message = proto.continue_final_message();
  absl::StatusOr<RenderedChat> rendered = RenderChat(prompt, model.chat_format);
  if (!rendered.ok() || prompt.tools.empty() ||
      proto.tool_choice().kind() != v1::ToolChoice::NONE) {
    return rendered;
  }
  // The tools are well-formed; the model that must not call them is not shown them.
  prompt.tools.clear();
  return RenderChat(prompt, model.chat_format);
}

absl::StatusOr<ParsedRequest> ParseChatRequest(const v1::ChatRequest& proto,
                                               const ServedModel& model,
                                               const RequestLimits& limits, const CallFacts& call) {
  const v1::OutputOptions& output = proto.output();
  if (output.has_text() && !output.text()) {
    return BadParameter("output.text", "is false; the answer of a chat is its text");
  }
  if (output.has_skip_special_tokens() && !output.skip_special_tokens()) {
    return BadParameter("output.skip_special_tokens",
                        "is false; the tokens that structure a chat are never its text");
  }
  if (output.has_prompt_logprobs()) return Unsupported("output.prompt_logprobs of a chat");
  if (output.echo_prompt_token_ids() && !call.streaming) {
    return Unsupported("output.echo_prompt_token_ids of a chat that is not streamed");
  }
  return ParseSharedFields(proto, model, limits, call, [&](GenerationSpec& spec) {
    absl::StatusOr<RenderedChat> rendered = RenderChatRequest(proto, model);
    if (!rendered.ok()) return rendered.status();
    SetChat(*std::move(rendered), proto.separate_reasoning(), spec);
    return absl::OkStatus();
  });
}

}  // namespace tandem::server
