// How far a load is: a bar that is redrawn on a terminal; elsewhere a line every 10 %, but not
// within a second of the one before, so that a quick load has none.
//
//   loading  ████████████░░░░░░░░  63 %  5.0/7.9 GiB  1.9 GiB/s  eta 2 s
//
// Threads   one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "server/cli/terminal.h"

namespace tandem::server {

// The bar, at most terminal.columns wide (but for the numbers, which are never cut).
std::string ProgressBar(uint64_t done_bytes, uint64_t total_bytes, double elapsed_s,
                        const Terminal& terminal);

// The same as an event of a log: "loading: percent=60 done_bytes=... bytes_per_s=... eta_s=..."
std::string ProgressEvent(uint64_t done_bytes, uint64_t total_bytes, double elapsed_s);

class Progress {
 public:
  // On a terminal `write` gets text to be written as it is (carriage returns included), elsewhere
  // one event at a time. `now_s` is a monotonic clock.
  Progress(const Terminal& terminal, std::function<void(std::string_view)> write,
           std::function<double()> now_s);

  // Redraws at most every 100 ms.
  void Update(uint64_t done_bytes, uint64_t total_bytes);
  // Takes the bar away, so that a line can follow.
  void Clear();

  double elapsed_s() const { return now_s_() - begin_s_; }

 private:
  Terminal terminal_;
  std::function<void(std::string_view)> write_;
  std::function<double()> now_s_;
  double begin_s_;
  double drawn_s_ = -1.0;  // when the bar was drawn last; negative: it is not there
  double event_s_ = 0.0;   // when the last event was written, or the load began
  int tenths_ = 0;         // of the last event
};

}  // namespace tandem::server
