// Who answers in `tandem chat`: the model in this process, or a server. The conversation loop sees
// only these two functions.
//
// Not here  the loop (chat_repl.h); the two ways (chat_local.h, chat_remote.h).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/chat/chat_messages.h"

namespace tandem::server {

// How the next answer is drawn; what is absent is the model's default.
struct ChatSettings {
  std::optional<double> temperature;
  std::optional<int> top_k;
  std::optional<double> top_p;
  std::optional<uint64_t> seed;
  int max_tokens = 0;  // 0: until the model ends its turn
  bool thinking = false;
};

// What became certain of an answer. Both parts are whole characters.
struct AnswerPiece {
  std::string reasoning;
  std::string content;
};

struct ChatAnswer {
  enum class End {
    kTurn,         // the model ended its turn
    kMaxTokens,    // ChatSettings::max_tokens
    kContextFull,  // prompt and answer together are as long as the model allows
    kStopped,      // ChatBackend::stop
  };
  absl::Status status;  // with a reason word (scheduler/status_reason.h) where there is one
  End end = End::kTurn;
  int prompt_tokens = 0;
  int cached_prompt_tokens = 0;  // of them, kept from an earlier turn and not computed again
  int completion_tokens = 0;
  int steps = 0;            // of the model, after the first token
  int drafted_tokens = 0;   // guesses that these verified
  int accepted_tokens = 0;  // of them, held
  double ttft_s = 0.0;      // asked to first token; 0 when there was none
  double decode_s = 0.0;    // first token to last
};

struct ChatBackend {
  std::string model;    // its name
  std::string place;    // "in this process", "at localhost:50051"
  int max_context = 0;  // tokens of prompt and answer
  // Answers the last message. `on_piece` is called on one other thread at a time, and never after
  // `ask` has returned.
  std::function<ChatAnswer(const std::vector<ChatMessage>& messages, const ChatSettings& settings,
                           const std::function<void(const AnswerPiece&)>& on_piece)>
      ask;
  // Ends the answer that is being given, if any. From any thread.
  std::function<void()> stop;
};

}  // namespace tandem::server
