#include "server/cli/chat_repl.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "scheduler/status_reason.h"
#include "server/chat/render_chat.h"
#include "server/cli/chat_command.h"
#include "server/cli/chat_text.h"
#include "server/cli/format.h"
#include "server/text/utf8.h"

namespace tandem::server {
namespace {

constexpr int kFailed = 1;
constexpr double kKeep = 0.75;  // of a conversation that has become too long
constexpr std::string_view kQuotes = "\"\"\"";

struct Totals {
  int answers = 0;
  int prompt_tokens = 0;
  int cached_prompt_tokens = 0;
  int completion_tokens = 0;
  int decoded_tokens = 0;  // after the first of each answer
  int steps = 0;           // that made them
  int drafted_tokens = 0;
  int accepted_tokens = 0;
  double decode_s = 0.0;
  int context_tokens = 0;  // prompt and answer of the last one
};

bool IsTooLong(const absl::Status& status) {
  const std::string reason = GetReason(status).reason;
  return reason == "PROMPT_TOO_LONG" || reason == "EXCEEDS_KV_CAPACITY";
}

double Rate(int tokens, double per) { return per > 0 ? tokens / per : 0.0; }

class Repl {
 public:
  Repl(const ChatBackend& backend, const ChatIo& io, Conversation conversation,
       ChatSettings settings)
      : backend_(backend),
        io_(io),
        conversation_(std::move(conversation)),
        settings_(std::move(settings)) {}

  int Run() {
    if (io_.interactive) Greet();
    while (true) {
      const ChatLine line = ReadMessage();
      if (line.kind == ChatLine::Kind::kEnd) return 0;
      if (line.kind == ChatLine::Kind::kInterrupted) {
        Note("Ctrl-D or /quit leaves; Ctrl-C stops an answer");
        continue;
      }
      const std::string& text = line.text;
      const bool two_slashes = text.starts_with("//");
      if (text.find_first_not_of(" \t\n") == std::string::npos) continue;
      if (text[0] == '/' && !two_slashes) {
        const absl::StatusOr<bool> leave = Command(text);
        if (leave.ok() && *leave) return 0;
        if (!leave.ok() && Fail(leave.status())) return kFailed;
        continue;
      }
      if (!Say(two_slashes ? text.substr(1) : text)) return kFailed;
    }
  }

 private:
  void Greet() {
    std::string context;
    if (backend_.max_context > 0) {
      context = absl::StrFormat("  context %s", CountText(backend_.max_context));
    }
    Note(absl::StrFormat("%s %s%s  /help lists the commands, Ctrl-D leaves", backend_.model,
                         backend_.place, context));
    if (!conversation_.turns.empty()) {
      Note(absl::StrFormat("going on after %d messages", conversation_.turns.size()));
    }
    io_.write("\n");
  }

  // One message: a line, or from a person several.
  ChatLine ReadMessage() {
    ChatLine message = io_.read("> ");
    if (message.kind != ChatLine::Kind::kText || !io_.interactive) return message;
    std::string& text = message.text;
    if (text.starts_with(kQuotes)) {
      text.erase(0, kQuotes.size());
      return ReadBlock(std::move(message));
    }
    while (!text.empty() && text.back() == '\\') {
      text.back() = '\n';
      const ChatLine more = io_.read(". ");
      if (more.kind == ChatLine::Kind::kInterrupted) return more;
      if (more.kind == ChatLine::Kind::kEnd) break;
      text += more.text;
    }
    return message;
  }

  // The rest of a message up to a line that ends with three quotes.
  ChatLine ReadBlock(ChatLine message) {
    std::string& text = message.text;
    bool first = true;
    while (!text.ends_with(kQuotes)) {
      const ChatLine more = io_.read(". ");
      if (more.kind == ChatLine::Kind::kInterrupted) return more;
      if (more.kind == ChatLine::Kind::kEnd) return message;
      if (!first || !text.empty()) text += "\n";
      text += more.text;
      first = false;
    }
    text.resize(text.size() - kQuotes.size());
    if (text.ends_with("\n")) text.pop_back();
    if (text.starts_with("/")) text.insert(0, "/");  // a message all the same
    return message;
  }

  // Returns whether to leave.
  absl::StatusOr<bool> Command(std::string_view line) {
    absl::StatusOr<ChatCommand> command = ParseChatCommand(line);
    if (!command.ok()) return command.status();
    switch (command->kind) {
      case ChatCommand::Kind::kHelp:
        io_.write(ChatHelp());
        return false;
      case ChatCommand::Kind::kReset:
        conversation_.turns.clear();
        totals_ = {};
        Note("the conversation is forgotten");
        return false;
      case ChatCommand::Kind::kSystem:
        if (!IsValidUtf8(command->argument)) return NotUtf8();
        conversation_.system = command->argument;
        Note(command->argument.empty() ? "no system text" : "the model is told so from now on");
        return false;
      case ChatCommand::Kind::kSet:
        if (!command->argument.empty()) {
          if (absl::Status s = SetChatSetting(command->argument, settings_); !s.ok()) return s;
        }
        if (io_.interactive || command->argument.empty()) {
          io_.write(ChatSettingsText(settings_) + "\n");
        }
        return false;
      case ChatCommand::Kind::kStats:
        io_.write(StatsText());
        return false;
      case ChatCommand::Kind::kSave:
        if (absl::Status s = SaveConversation(conversation_, command->argument); !s.ok()) return s;
        Note(absl::StrFormat("%d messages are in %s", MessagesOf(conversation_).size(),
                             command->argument));
        return false;
      case ChatCommand::Kind::kQuit:
        return true;
    }
    return false;
  }

  // Returns whether to go on.
  bool Say(std::string text) {
    if (!IsValidUtf8(text)) return !Fail(NotUtf8());
    conversation_.turns.push_back({.role = ChatRole::kUser, .content = std::move(text)});
    if (context_full_) SayCut(CutOldest(conversation_, kKeep));
    while (MessagesOf(conversation_).size() > static_cast<size_t>(kMaxChatMessages)) {
      SayCut(CutOldest(conversation_, kKeep));
    }
    context_full_ = false;
    while (true) {
      AnswerWriter writer(io_);
      ChatMessage answer = {.role = ChatRole::kAssistant};
      const ChatAnswer result =
          backend_.ask(MessagesOf(conversation_), settings_, [&](const AnswerPiece& piece) {
            answer.reasoning += piece.reasoning;
            answer.content += piece.content;
            writer.Write(piece);
          });
      writer.Finish();
      if (IsTooLong(result.status)) {
        const size_t cut = CutOldest(conversation_, kKeep);
        if (cut > 0) {
          SayCut(cut);
          continue;
        }
      }
      return Remember(std::move(answer), result);
    }
  }

  // Returns whether to go on.
  bool Remember(ChatMessage answer, const ChatAnswer& result) {
    const bool empty = answer.content.empty() && answer.reasoning.empty();
    if (!result.status.ok() || (result.end == ChatAnswer::End::kStopped && empty)) {
      conversation_.turns.pop_back();  // the question, so that it can be put again
      if (result.status.ok()) {
        Note("stopped before the answer began; the message is forgotten");
        return true;
      }
      return !Fail(result.status);
    }
    conversation_.turns.push_back(std::move(answer));
    ++totals_.answers;
    totals_.prompt_tokens += result.prompt_tokens;
    totals_.cached_prompt_tokens += result.cached_prompt_tokens;
    totals_.completion_tokens += result.completion_tokens;
    totals_.decoded_tokens += std::max(0, result.completion_tokens - 1);
    totals_.steps += result.steps;
    totals_.drafted_tokens += result.drafted_tokens;
    totals_.accepted_tokens += result.accepted_tokens;
    totals_.decode_s += result.decode_s;
    totals_.context_tokens = result.prompt_tokens + result.completion_tokens;
    Note(AnswerStats(result));
    if (result.end == ChatAnswer::End::kContextFull) {
      context_full_ = true;
      Remark(
          "the context is full, and the answer was cut; the oldest messages are left out from "
          "now on");
    }
    if (io_.interactive) io_.write("\n");
    return true;
  }

  static std::string AnswerStats(const ChatAnswer& answer) {
    std::string text = absl::StrFormat("%d token%s", answer.completion_tokens,
                                       answer.completion_tokens == 1 ? "" : "s");
    if (answer.decode_s > 0 && answer.completion_tokens > 1) {
      text += absl::StrFormat("  %.1f tok/s", Rate(answer.completion_tokens - 1, answer.decode_s));
    }
    if (answer.ttft_s > 0) text += "  first after " + SecondsText(answer.ttft_s);
    if (answer.cached_prompt_tokens > 0) {
      text +=
          absl::StrFormat("  %s of %s prompt tokens cached", CountText(answer.cached_prompt_tokens),
                          CountText(answer.prompt_tokens));
    }
    if (answer.drafted_tokens > 0) {
      text += absl::StrFormat("  %d of %d drafted accepted  %.2f tokens per round",
                              answer.accepted_tokens, answer.drafted_tokens,
                              1.0 + Rate(answer.accepted_tokens, answer.steps));
    }
    if (answer.end == ChatAnswer::End::kStopped) text += "  stopped";
    if (answer.end == ChatAnswer::End::kMaxTokens) text += "  cut at max_tokens";
    return text;
  }

  std::string StatsText() const {
    std::string text =
        absl::StrFormat("answers %d  messages %d  tokens in %s", totals_.answers,
                        MessagesOf(conversation_).size(), CountText(totals_.prompt_tokens));
    if (totals_.cached_prompt_tokens > 0) {
      text += absl::StrFormat(" (%s cached)", CountText(totals_.cached_prompt_tokens));
    }
    text += ", out " + CountText(totals_.completion_tokens);
    if (totals_.decode_s > 0) {
      text += absl::StrFormat("  %.1f tok/s", Rate(totals_.decoded_tokens, totals_.decode_s));
    }
    if (totals_.drafted_tokens > 0) {
      text += absl::StrFormat("\ndrafts: %s of %s guesses held (%.0f %%)  %.2f tokens per round",
                              CountText(totals_.accepted_tokens), CountText(totals_.drafted_tokens),
                              100.0 * Rate(totals_.accepted_tokens, totals_.drafted_tokens),
                              1.0 + Rate(totals_.accepted_tokens, totals_.steps));
    }
    text += "\ncontext " + CountText(totals_.context_tokens);
    if (backend_.max_context > 0) text += " of " + CountText(backend_.max_context);
    return text + " tokens\n";
  }

  static absl::Status NotUtf8() {
    return absl::InvalidArgumentError("that is not valid UTF-8; nothing was sent");
  }

  void SayCut(size_t messages) {
    Remark(
        absl::StrFormat("the conversation is too long for the context: the oldest %d messages "
                        "are left out",
                        messages));
  }

  // About what goes on, for a person.
  void Note(std::string_view text) {
    if (io_.interactive) io_.write(Dimmed(TerminalSafe(text), io_.colors) + "\n");
  }

  // The same, but nobody should miss it.
  void Remark(std::string_view text) {
    if (io_.interactive) {
      Note(text);
    } else {
      io_.fail(text);
    }
  }

  // Returns whether that ends the program.
  bool Fail(const absl::Status& status) {
    const std::string message(status.message());  // of a server, perhaps
    io_.fail(io_.interactive ? TerminalSafe(message) : message);
    return !io_.interactive;
  }

  const ChatBackend& backend_;
  const ChatIo& io_;
  Conversation conversation_;
  ChatSettings settings_;
  Totals totals_;
  bool context_full_ = false;
};

}  // namespace

int RunChat(const ChatBackend& backend, const ChatIo& io, Conversation conversation,
            ChatSettings settings) {
  return Repl(backend, io, std::move(conversation), std::move(settings)).Run();
}

}  // namespace tandem::server
