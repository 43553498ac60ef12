// The tokens of one choice turned into deltas: text, stop strings, and how much to send at once.
//
// In        tokens as the scheduler commits them, and the reason why the choice ended.
// Out       deltas whose texts and ids join to the whole answer; a stop string that ended it.
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
};

struct Delta {
  int position = 0;  // tokens in the deltas before
  std::vector<engine::SampledToken> tokens;
  std::string text;
};

class ChoiceStream {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // `rules` outlives the stream; `stops` has its stop strings.
  ChoiceStream(const StreamRules& rules, StopMatcher stops);

  // Takes the next token. Ignored once the choice has ended: the scheduler runs ahead of the text.
  void Push(engine::SampledToken token, Time now);

  // Ends the choice. What was withheld may be shown now. A stop string that this completes goes
  // before every reason but a stop by id.
  void Finish(scheduler::FinishReason reason);

  // How the choice ended; kStopString without Finish once one is found.
  std::optional<scheduler::FinishReason> ended() const { return ended_; }
  const std::string& stop_text() const { return stops_.stop(*stops_.matched()); }
  int num_tokens() const { return num_tokens_; }

  // When the next delta goes out: at once for the first one and after the end, else when it has
  // interval_tokens and its first token has waited for the interval. Nothing: not with the tokens
  // that are there.
  std::optional<Time> DeltaDue() const;

  // What has gathered since the last delta.
  Delta TakeDelta();

 private:
  // What the end of the text releases: half a character, half a stop string.
  std::string Flush(bool may_stop);

  const StreamRules* rules_;
  StreamDetokenizer detokenizer_;
  StopMatcher stops_;
  std::optional<scheduler::FinishReason> ended_;
  int num_tokens_ = 0;  // sent and pending
  bool sent_any_ = false;
  Delta pending_;
  Time first_pending_ = {};  // when the oldest pending token came
};

}  // namespace tandem::server
