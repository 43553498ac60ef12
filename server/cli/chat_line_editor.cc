#include "server/cli/chat_line_editor.h"

#include <histedit.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>

namespace tandem::server {
namespace {

constexpr int kHistoryLines = 1000;

// libedit knows letters beyond ASCII only in a locale that has them; terminals speak UTF-8.
void UseWideCharacters() {
  std::setlocale(LC_CTYPE, "");
  if (MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
}

}  // namespace

struct ChatLineEditor::Impl {
  EditLine* editor = nullptr;
  History* history = nullptr;
  int wake = -1;  // an event to look at beside the terminal
  std::atomic<bool> leaving = false;
  std::string prompt;

  static Impl* Of(EditLine* editor) {
    void* impl = nullptr;
    el_get(editor, EL_CLIENTDATA, &impl);
    return static_cast<Impl*>(impl);
  }
  static char* Prompt(EditLine* editor) { return Of(editor)->prompt.data(); }

  // libedit's source of characters: 1 with one, 0 at the end, -1 with errno.
  static int ReadCharacter(EditLine* editor, wchar_t* character) {
    Impl* const impl = Of(editor);
    std::mbstate_t state = {};
    while (true) {
      pollfd ready[] = {{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0},
                        {.fd = impl->wake, .events = POLLIN, .revents = 0}};
      if (poll(ready, 2, -1) < 0) {
        if (errno == EINTR) continue;
        return -1;
      }
      if (ready[1].revents != 0) {
        errno = EINTR;
        return -1;
      }
      char byte = 0;
      const ssize_t count = read(STDIN_FILENO, &byte, 1);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return static_cast<int>(count);
      const size_t used = std::mbrtowc(character, &byte, 1, &state);
      if (used == static_cast<size_t>(-2)) continue;  // the start of a character
      if (used == static_cast<size_t>(-1)) {
        state = {};
        continue;  // no text; nothing to show for it
      }
      return 1;
    }
  }
};

ChatLineEditor::ChatLineEditor() : impl_(std::make_unique<Impl>()) {
  UseWideCharacters();
  impl_->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  impl_->history = history_init();
  HistEvent event = {};
  history(impl_->history, &event, H_SETSIZE, kHistoryLines);
  impl_->editor = el_init("tandem", stdin, stdout, stderr);
  el_set(impl_->editor, EL_CLIENTDATA, static_cast<void*>(impl_.get()));
  el_set(impl_->editor, EL_PROMPT, &Impl::Prompt);
  el_set(impl_->editor, EL_EDITOR, "emacs");
  el_set(impl_->editor, EL_HIST, history, impl_->history);
  el_set(impl_->editor, EL_GETCFN, &Impl::ReadCharacter);
  el_set(impl_->editor, EL_SIGNAL, 1);  // job control and changes of the terminal's size
}

ChatLineEditor::~ChatLineEditor() {
  el_end(impl_->editor);
  history_end(impl_->history);
  close(impl_->wake);
}

ChatLine ChatLineEditor::Read(std::string_view prompt) {
  if (impl_->leaving) return {.kind = ChatLine::Kind::kEnd};
  impl_->prompt = prompt;
  int length = 0;
  const char* const line = el_gets(impl_->editor, &length);
  uint64_t wakes = 0;
  const bool woken = read(impl_->wake, &wakes, sizeof(wakes)) > 0;
  if (impl_->leaving || line == nullptr || length <= 0) {
    std::fputs("\n", stdout);
    std::fflush(stdout);
    const bool ends = impl_->leaving || !woken;
    return {.kind = ends ? ChatLine::Kind::kEnd : ChatLine::Kind::kInterrupted};
  }
  std::string text(line, static_cast<size_t>(length));
  if (text.ends_with('\n')) text.pop_back();
  if (text.find_first_not_of(" \t") != std::string::npos) {
    HistEvent event = {};
    history(impl_->history, &event, H_ENTER, text.c_str());
  }
  return {.kind = ChatLine::Kind::kText, .text = std::move(text)};
}

void ChatLineEditor::Wake() {
  const uint64_t one = 1;
  // It can only fail when the event is already there.
  if (write(impl_->wake, &one, sizeof(one)) < 0) return;
}

void ChatLineEditor::Leave() {
  impl_->leaving = true;
  Wake();
}

}  // namespace tandem::server
