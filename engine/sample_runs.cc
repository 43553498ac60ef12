#include "engine/sample_runs.h"

#include "absl/strings/str_format.h"

namespace tandem::engine {

absl::Status FindRuns(const StepBatch& batch, SampleRuns& out) {
  auto& [runs, segment_runs, draft_runs] = out;
  runs.clear();
  draft_runs.clear();
  segment_runs.assign(batch.segments.size(), -1);
  size_t at = 0;
  for (int s = 0; s < static_cast<int>(batch.samples.size()); ++s) {
    const SampleRequest& request = batch.samples[s];
    while (at < batch.segments.size() &&
           batch.segments[at].row_begin + batch.segments[at].num_rows <= request.row) {
      ++at;
    }
    if (at == batch.segments.size()) {
      return absl::InternalError(
          absl::StrFormat("a sample of a step asks for row %d, which no segment has", request.row));
    }
    const Segment& segment = batch.segments[at];
    const bool draws = request.params != nullptr;
    if (draws && segment.num_drafts > 0 && segment_runs[at] >= 0) {
      runs[segment_runs[at]].last = s + 1;
      continue;
    }
    if (draws) segment_runs[at] = static_cast<int>(runs.size());
    runs.push_back({.first = s, .last = s + 1});
  }
  for (size_t i = 0; i < batch.segments.size(); ++i) {
    const Segment& segment = batch.segments[i];
    if (segment.num_drafts == 0) continue;
    const bool verified =
        segment.num_drafts < segment.num_rows && segment_runs[i] >= 0 &&
        runs[segment_runs[i]].last - runs[segment_runs[i]].first == segment.num_drafts + 1;
    if (!verified) {
      return absl::InternalError(absl::StrFormat(
          "a segment of %d rows with a draft of %d has no sample for each row from the one before "
          "the draft on",
          segment.num_rows, segment.num_drafts));
    }
  }
  for (const DraftRequest& request : batch.drafts) {
    const bool known =
        request.segment >= 0 && request.segment < static_cast<int>(batch.segments.size());
    if (!known || segment_runs[request.segment] < 0 || request.max_tokens < 1) {
      return absl::InternalError(absl::StrFormat(
          "a draft of %d tokens is asked for behind segment %d, which draws nothing",
          request.max_tokens, request.segment));
    }
    draft_runs.push_back(segment_runs[request.segment]);
  }
  return absl::OkStatus();
}

}  // namespace tandem::engine
