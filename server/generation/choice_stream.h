// The tokens of one choice turned into deltas: text, stop strings, and how much to send at once.
//
// In        tokens as the scheduler commits them, and the reason why the choice ended.
// Out       deltas whose texts and ids join to the whole answer, of a chat by channels; a stop
//           string that ended it.
// Not here  telling anyone (generator.cc); stops by id, which the scheduler decides.
// Threads   one at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/sampling.h"
#include "scheduler/request.h"
#include "server/chat/chat_output.h"
#include "server/generation/tool_call_delta.h"
#include "server/text/detokenizer.h"
#include "server/text/stop_matcher.h"
#include "server/text/tokenizer.h"

namespace tandem::server {

// How a request wants its tokens shown; see GenerationSpec.
struct StreamRules {
  const Tokenizer* tokenizer = nullptr;
  bool text = true;
  bool skip_special_tokens = true;
  bool include_stop = false;
  int min_tokens = 0;             // of the answer; earlier ones end no stop string
  std::vector<int32_t> stop_ids;  // the model's and the client's
  int interval_tokens = 1;
  std::chrono::microseconds interval = {};
  std::optional<ChatOutputRules> chat;  // the answer is to a chat
  std::string request_id;               // tool calls get their ids from it
};

struct Delta {
  int position = 0;  // tokens in the deltas before
  int steps = 0;     // decode steps that made its tokens
  int drafted = 0;   // guesses that these verified
  int accepted = 0;  // of them, held
  std::vector<engine::SampledToken> tokens;
  std::string text;       // of a chat: what is said
  std::string reasoning;  // of a chat, as are tool_calls
  std::vector<ToolCallDelta> tool_calls;
};

// Stop strings are looked for in what is said and in what is thought, each stretch of them by
// itself, and not in tool calls.
class ChoiceStream {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // `rules` outlives the stream; `stops` has its stop strings; `choice` is its index.
  ChoiceStream(const StreamRules& rules, StopMatcher stops, int choice);

  // Takes the next token. Ignored once the choice has ended: the scheduler runs ahead of the text.
  void Push(engine::SampledToken token, Time now);

  // Says that a decode step made the tokens that were just pushed, since there were
  // `tokens_before`: what it verified and what held of that. Guesses behind the end of the choice
  // do not count.
  void CountStep(int tokens_before, int drafted, int accepted);

  // Ends the choice. What was withheld may be shown now. A stop string that this completes goes
  // before every reason but a stop by id. kStopEos becomes kToolCalls when the model waits for the
  // results of tools that it called.
  void Finish(scheduler::FinishReason reason);

  // How the choice ended; kStopString without Finish once one is found.
  std::optional<scheduler::FinishReason> ended() const { return ended_; }
  const std::string& stop_text() const { return stops_.stop(*stops_.matched()); }
  int num_tokens() const { return num_tokens_; }
  const scheduler::DraftCounts& drafts() const { return drafts_; }
  // What the scheduler counted for a choice that it ended.
  void SetDrafts(const scheduler::DraftCounts& drafts) { drafts_ = drafts; }

  // When the next delta goes out: at once for the first one and after the end, else when it has
  // interval_tokens and its first token has waited for the interval. Nothing: not with the tokens
  // that are there.
  std::optional<Time> DeltaDue() const;

  // What has gathered since the last delta.
  Delta TakeDelta();

 private:
  // Shows what the end of the text releases: half a character, half a stop string.
  void Flush(bool may_stop);
  // Shows the pieces of a chat's answer.
  void Take(std::vector<ChatPiece> pieces, bool may_stop);
  void EndChannel();
  std::string& TextOf(ChatPiece::Channel channel);

  const StreamRules* rules_;
  int choice_;
  StreamDetokenizer detokenizer_;
  std::optional<ChatOutput> chat_;
  ChatPiece::Channel channel_ = ChatPiece::Channel::kContent;  // of the last piece
  int num_tool_calls_ = 0;
  int32_t last_id_ = -1;
  StopMatcher stops_;
  std::optional<scheduler::FinishReason> ended_;
  int num_tokens_ = 0;  // sent and pending
  scheduler::DraftCounts drafts_;
  bool sent_any_ = false;
  Delta pending_;
  Time first_pending_ = {};  // when the oldest pending token came
};

}  // namespace tandem::server
