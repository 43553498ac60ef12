#include "scheduler/segment_result.h"

#include "absl/strings/str_cat.h"

namespace tandem::scheduler {

absl::Status CheckResult(const engine::StepBatch& batch, engine::StepResult& result,
                         int vocab_size) {
  if (result.tokens.size() != batch.samples.size()) {
    return absl::InternalError(absl::StrCat("the engine returned ", result.tokens.size(),
                                            " tokens for ", batch.samples.size(), " samples"));
  }
  if (result.drafts.size() != batch.drafts.size()) {
    return absl::InternalError(absl::StrCat("the engine returned ", result.drafts.size(),
                                            " drafts where ", batch.drafts.size(),
                                            " were asked for"));
  }
  int last_broken = -1;
  for (const int segment : result.broken_segments) {
    if (segment <= last_broken || segment >= static_cast<int>(batch.segments.size())) {
      return absl::InternalError(absl::StrCat("the engine names broken segment ", segment,
                                              " behind ", last_broken, " of ",
                                              batch.segments.size()));
    }
    last_broken = segment;
  }
  const auto check_id = [vocab_size](int32_t id) {
    if (id >= 0 && id < vocab_size) return absl::OkStatus();
    return absl::InternalError(
        absl::StrCat("the engine returned token id ", id, " of a vocabulary of ", vocab_size));
  };
  for (const SegmentResult& segment : ResultsBySegment(batch, result)) {
    for (const auto& tokens : {segment.scores, segment.drawn}) {
      for (const engine::SampledToken& token : tokens) {
        if (!token.finite) continue;
        if (absl::Status status = check_id(token.id); !status.ok()) return status;
      }
    }
  }
  for (size_t i = 0; i < result.drafts.size(); ++i) {
    const std::vector<int32_t>& ids = result.drafts[i].ids;
    if (static_cast<int>(ids.size()) > batch.drafts[i].max_tokens) {
      return absl::InternalError(absl::StrCat("the engine guessed ", ids.size(), " tokens where ",
                                              batch.drafts[i].max_tokens, " were asked for"));
    }
    for (const int32_t id : ids) {
      if (absl::Status status = check_id(id); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

std::vector<SegmentResult> ResultsBySegment(const engine::StepBatch& batch,
                                            engine::StepResult& result) {
  std::vector<SegmentResult> results(batch.segments.size());
  size_t sample = 0;
  for (size_t i = 0; i < batch.segments.size(); ++i) {
    const int row_end = batch.segments[i].row_begin + batch.segments[i].num_rows;
    const size_t begin = sample;
    size_t first_drawn = begin;
    size_t drawn_end = begin;
    bool held = true;  // what was fed so far is what the rows before it drew
    for (; sample < batch.samples.size() && batch.samples[sample].row < row_end; ++sample) {
      const engine::SampleRequest& request = batch.samples[sample];
      if (request.params == nullptr) {  // a segment's scores stand before what it draws
        first_drawn = drawn_end = sample + 1;
        continue;
      }
      if (!held) continue;
      const engine::SampledToken& token = result.tokens[sample];
      drawn_end = sample + 1;
      held = token.finite && request.row + 1 < row_end && batch.ids[request.row + 1] == token.id;
    }
    const std::span<engine::SampledToken> tokens(result.tokens);
    results[i].scores = tokens.subspan(begin, first_drawn - begin);
    results[i].drawn = tokens.subspan(first_drawn, drawn_end - first_drawn);
  }
  for (size_t i = 0; i < batch.drafts.size(); ++i) {
    results[batch.drafts[i].segment].draft = &result.drafts[i];
  }
  for (const int segment : result.broken_segments) results[segment].broken_rows = true;
  return results;
}

}  // namespace tandem::scheduler
