// A conversation as plain structs: what a client sends before it becomes a prompt.
//
// Not here  which conversations are allowed, and their text (render_chat.h); wire messages
//           (server/grpc).
#pragma once

#include <string>
#include <vector>

namespace tandem::server {

enum class ChatRole { kSystem, kUser, kAssistant, kTool, kDeveloper };

struct ChatToolCall {
  std::string id;
  std::string name;
  std::string arguments_json;  // an object; empty or null: none
};

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content;
  std::string reasoning;  // of an assistant: what it thought before it answered
  std::string name;       // of a tool that answers a call without id; else not shown to the model
  std::string tool_call_id;              // of a tool: the call it answers
  std::vector<ChatToolCall> tool_calls;  // of an assistant
};

struct ChatTool {
  std::string name;
  std::string description;
  std::string parameters_json;  // a JSON Schema of type object; empty or null: no parameters
};

struct ChatPrompt {
  std::vector<ChatMessage> messages;
  std::vector<ChatTool> tools;
  bool enable_thinking = false;
  bool preserve_thinking = false;  // keep the reasoning of earlier turns that called tools
  bool add_generation_prompt = true;
  bool continue_final_message = false;  // the answer goes on where the last message stops
};

}  // namespace tandem::server
