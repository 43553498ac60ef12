#include "server/chat/chat_output.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace tandem::server {
namespace {

using Channel = ChatPiece::Channel;

void Append(Channel channel, std::string text, std::vector<ChatPiece>& out) {
  if (text.empty()) return;
  out.push_back({.channel = channel, .text = std::move(text), .call = {}});
}

// As the model wrote it: quote tokens by their text.
std::string Spelled(std::string_view call) {
  std::string text;
  for (const char c : call) {
    if (c == kQuoteMark) {
      text += "<|\"|>";
    } else {
      text += c;
    }
  }
  return text;
}

}  // namespace

ChatOutput::ChatOutput(const Tokenizer& tokenizer, bool starts_in_reasoning,
                       bool skip_special_tokens)
    : tokenizer_(&tokenizer),
      tokens_(FindChatTokens(tokenizer.vocabulary())),
      detokenizer_(tokenizer, skip_special_tokens),
      skip_special_tokens_(skip_special_tokens),
      state_(starts_in_reasoning ? State::kReasoning : State::kContent) {}

std::vector<ChatPiece> ChatOutput::Push(int32_t id) {
  std::vector<ChatPiece> out;
  if (!tokenizer_->vocabulary().Contains(id)) return out;
  const auto enter = [&](State state) {
    LeaveState(out);
    state_ = state;
    return std::move(out);
  };
  switch (state_) {
    case State::kContent:
      if (id == tokens_.channel_open) return enter(State::kChannelName);
      if (id == tokens_.tool_call_open) return enter(State::kToolCall);
      if (id == tokens_.channel_close) return enter(State::kContent);  // closes nothing
      break;
    case State::kChannelName:
    case State::kReasoning:
      if (id == tokens_.channel_close) return enter(State::kContent);
      break;
    case State::kToolCall:
      if (id == tokens_.tool_call_close) {
        EndToolCall("<tool_call|>", out);
        state_ = State::kContent;
        return out;
      }
      if (std::binary_search(tokens_.all.begin(), tokens_.all.end(), id)) {
        collected_ += detokenizer_.Finish();
        if (id == tokens_.quote) {
          collected_ += kQuoteMark;
        } else {
          collected_ += tokenizer_->vocabulary().Piece(id);
        }
        return out;
      }
      break;
  }
  const bool is_control = std::binary_search(tokens_.all.begin(), tokens_.all.end(), id);
  if (is_control && skip_special_tokens_) return out;
  Take(detokenizer_.Push(id), out);
  return out;
}

std::vector<ChatPiece> ChatOutput::Finish() {
  std::vector<ChatPiece> out;
  LeaveState(out);
  state_ = State::kContent;
  return out;
}

void ChatOutput::Take(std::string text, std::vector<ChatPiece>& out) {
  switch (state_) {
    case State::kContent:
      return Append(Channel::kContent, std::move(text), out);
    case State::kReasoning:
      return Append(Channel::kReasoning, std::move(text), out);
    case State::kToolCall:
      collected_ += text;
      return;
    case State::kChannelName: {
      const size_t end_of_name = text.find('\n');
      collected_.append(text, 0, end_of_name);
      if (end_of_name == std::string::npos) return;
      collected_.clear();
      state_ = State::kReasoning;
      return Append(Channel::kReasoning, text.substr(end_of_name + 1), out);
    }
  }
}

void ChatOutput::LeaveState(std::vector<ChatPiece>& out) {
  if (state_ == State::kToolCall) return EndToolCall("", out);
  Take(detokenizer_.Finish(), out);
  if (state_ != State::kChannelName) return;
  // A channel that ends within its name: nothing was thought, unless that was no name.
  std::string name = std::exchange(collected_, "");
  if (!std::string_view("thought").starts_with(name)) {
    Append(Channel::kReasoning, std::move(name), out);
  }
}

void ChatOutput::EndToolCall(std::string_view closing, std::vector<ChatPiece>& out) {
  const std::string text = std::exchange(collected_, "") + detokenizer_.Finish();
  std::optional<ParsedToolCall> call;
  if (!closing.empty()) call = ParseToolCall(text);
  if (call.has_value()) {
    out.push_back({.channel = Channel::kToolCall, .text = {}, .call = *std::move(call)});
  } else {
    Append(Channel::kContent, "<|tool_call>" + Spelled(text) + std::string(closing), out);
  }
}

}  // namespace tandem::server
