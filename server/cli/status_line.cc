#include "server/cli/status_line.h"

#include "absl/strings/str_format.h"
#include "scheduler/draft_report.h"

namespace tandem::server {
namespace {

void AddDrafts(const scheduler::DraftCounts& drafts, StatusLine& line) {
  if (drafts.drafted == 0) return;
  std::string held;
  for (int i = 0; i < scheduler::DraftedPositions(drafts); ++i) {
    held +=
        absl::StrFormat("%s%.0f", i == 0 ? "" : "/", 100.0 * scheduler::AcceptanceAt(drafts, i));
  }
  const double per_round = scheduler::TokensPerRound(drafts);
  line.text += absl::StrFormat("  drafts held %s %%  %.1f tok/round", held, per_round);
  line.event +=
      absl::StrFormat(" drafted=%d accepted=%d accepted_percent_by_position=%s tok_per_round=%.2f",
                      drafts.drafted, drafts.accepted, held, per_round);
}

// Of the prompts that were seated meanwhile, if any of them was found in the cache.
void AddPrefixHits(const scheduler::SchedulerStats& before, const scheduler::SchedulerStats& now,
                   StatusLine& line) {
  const int64_t asked = now.prefix_query_tokens_total - before.prefix_query_tokens_total;
  const int64_t found = now.prefix_hit_tokens_total - before.prefix_hit_tokens_total;
  if (asked == 0 || found == 0) return;
  line.text += absl::StrFormat("  %.0f %% of prompts cached", 100.0 * found / asked);
  line.event += absl::StrFormat(" prefix_query_tokens=%d prefix_hit_tokens=%d", asked, found);
}

}  // namespace

std::optional<StatusLine> MakeStatusLine(const scheduler::SchedulerStats& before,
                                         const scheduler::SchedulerStats& now, double seconds) {
  const int64_t waiting = scheduler::WaitingRequests(now);
  if (now.running == 0 && waiting == 0 && now.steps_total == before.steps_total) {
    return std::nullopt;
  }
  const auto rate = [&](int64_t from, int64_t to) {
    return seconds > 0 ? (to - from) / seconds : 0.0;
  };
  const double in = rate(before.prompt_tokens_total, now.prompt_tokens_total);
  const double out = rate(before.generated_tokens_total, now.generated_tokens_total);
  const double kv_percent = 100.0 * scheduler::KvUsage(now);
  StatusLine line = {
      .text = absl::StrFormat("in %.1f tok/s  out %.1f tok/s  running %d  waiting %d  KV %.0f %%",
                              in, out, now.running, waiting, kv_percent),
      .event = absl::StrFormat("prompt_tok_per_s=%.1f generation_tok_per_s=%.1f running=%d "
                               "waiting=%d kv_percent=%.1f preemptions=%d",
                               in, out, now.running, waiting, kv_percent, now.preemptions_total)};
  AddPrefixHits(before, now, line);
  AddDrafts(scheduler::Between(before.drafts, now.drafts), line);
  return line;
}

}  // namespace tandem::server
