// `tandem chat`: the conversation loop between a terminal, or pipes, and a model here or elsewhere.

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "server/cli/chat_line_editor.h"
#include "server/cli/chat_local.h"
#include "server/cli/chat_remote.h"
#include "server/cli/chat_repl.h"
#include "server/cli/console.h"
#include "server/cli/signals.h"
#include "server/cli/verbs.h"

namespace tandem::server {
namespace {

// What a signal does. Before there is a conversation it ends the process. From then on SIGINT ends
// the answer, or wakes the editor; SIGTERM, and SIGINT without a terminal, ends everything.
class Interruption {
 public:
  // Begins the conversation. `editor` is null without a terminal.
  void Begin(const ChatBackend& backend, ChatLineEditor* editor) {
    const std::lock_guard lock(mutex_);
    backend_ = &backend;
    editor_ = editor;
  }
  // Ends it: signals end the process again.
  void End() {
    const std::lock_guard lock(mutex_);
    backend_ = nullptr;
  }

  void SetAnswering(bool answering) {
    const std::lock_guard lock(mutex_);
    answering_ = answering;
  }

  void OnSignal(int signal) {
    const std::lock_guard lock(mutex_);
    const bool ends = signal == SIGTERM || editor_ == nullptr;
    if (backend_ == nullptr || (ends && editor_ == nullptr && !answering_)) _exit(128 + signal);
    if (ends) fatal_ = signal;
    if (answering_) backend_->stop();
    if (editor_ == nullptr) return;
    if (ends) {
      editor_->Leave();
    } else if (!answering_) {
      editor_->Wake();
    }
  }

  // The signal that ended everything; 0: none.
  int fatal() {
    const std::lock_guard lock(mutex_);
    return fatal_;
  }

 private:
  std::mutex mutex_;
  const ChatBackend* backend_ = nullptr;
  ChatLineEditor* editor_ = nullptr;
  bool answering_ = false;
  int fatal_ = 0;
};

ChatLine ReadPlainLine() {
  ChatLine line;
  if (!std::getline(std::cin, line.text)) return line;
  line.kind = ChatLine::Kind::kText;
  if (line.text.ends_with('\r')) line.text.pop_back();
  return line;
}

void WriteOut(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

absl::StatusOr<Conversation> FirstConversation(const ChatArguments& chat) {
  Conversation conversation;
  if (!chat.load.empty()) {
    absl::StatusOr<Conversation> loaded = LoadConversation(chat.load);
    if (!loaded.ok()) {
      return absl::Status(loaded.status().code(),
                          "--load: " + std::string(loaded.status().message()));
    }
    conversation = *std::move(loaded);
  }
  if (!chat.system.empty()) conversation.system = chat.system;
  return conversation;
}

ChatSettings FirstSettings(const Settings& settings) {
  return {.temperature = settings.run.temperature,
          .top_k = settings.run.top_k,
          .top_p = settings.run.top_p,
          .seed = settings.run.seed,
          .max_tokens = settings.run.max_tokens,
          .thinking = settings.chat.thinking};
}

}  // namespace

absl::StatusOr<int> Chat(const Settings& settings, const Terminal& progress,
                         const Terminal& screen) {
  BlockStopSignals();
  Interruption interruption;
  const SignalWatcher watcher([&](int signal) { interruption.OnSignal(signal); });
  absl::StatusOr<Conversation> conversation = FirstConversation(settings.chat);
  if (!conversation.ok()) return conversation.status();

  std::unique_ptr<RemoteChat> remote;
  std::unique_ptr<LocalChat> local;
  if (!settings.chat.connect.empty()) {
    absl::StatusOr<std::unique_ptr<RemoteChat>> connected =
        RemoteChat::Connect(settings.chat.connect);
    if (!connected.ok()) return connected.status();
    remote = *std::move(connected);
  } else {
    const Console console(progress, /*quiet=*/true);
    absl::StatusOr<std::unique_ptr<LocalChat>> loaded = LocalChat::Load(settings, console);
    if (!loaded.ok()) return loaded.status();
    local = *std::move(loaded);
  }
  const ChatBackend& model = remote != nullptr ? remote->backend() : local->backend();

  const bool interactive = screen.interactive && isatty(STDIN_FILENO) == 1;
  std::optional<ChatLineEditor> editor;
  if (interactive) editor.emplace();
  interruption.Begin(model, editor.has_value() ? &*editor : nullptr);
  ChatBackend backend = model;
  backend.ask = [&](const std::vector<ChatMessage>& messages, const ChatSettings& chat,
                    const std::function<void(const AnswerPiece&)>& on_piece) {
    interruption.SetAnswering(true);
    ChatAnswer answer = model.ask(messages, chat, on_piece);
    interruption.SetAnswering(false);
    return answer;
  };
  const ChatIo io = {
      .interactive = interactive,
      .colors = interactive && screen.colors,
      .read =
          [&](std::string_view prompt) {
            if (interruption.fatal() != 0) return ChatLine{};
            return editor.has_value() ? editor->Read(prompt) : ReadPlainLine();
          },
      .write = WriteOut,
      .fail =
          [](std::string_view text) {
            std::fprintf(stderr, "tandem: %.*s\n", static_cast<int>(text.size()), text.data());
          },
  };
  const int exit_status = RunChat(backend, io, *std::move(conversation), FirstSettings(settings));
  interruption.End();
  return interruption.fatal() != 0 ? 128 + interruption.fatal() : exit_status;
}

}  // namespace tandem::server
