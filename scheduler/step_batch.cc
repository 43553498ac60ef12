#include "scheduler/step_batch.h"

#include <algorithm>

#include "scheduler/stop_rules.h"

namespace tandem::scheduler {
namespace {

void AddScores(const Sequence& sequence, int row_begin, int rows,
               std::vector<engine::SampleRequest>& samples) {
  const RequestState& state = *sequence.request;
  if (!state.request.prompt_logprobs.enabled || sequence.choice != 0) return;
  // The row of position p scores the prompt token at p + 1.
  const int begin = std::max(sequence.kv_tokens + 1, state.next_scored);
  const int end = std::min(sequence.kv_tokens + rows + 1, state.prompt_tokens());
  for (int position = begin; position < end; ++position) {
    engine::SampleRequest score;
    score.row = row_begin + position - 1 - sequence.kv_tokens;
    score.position = position;
    score.logprobs = state.request.prompt_logprobs;
    score.score_id = state.request.prompt[position];
    samples.push_back(score);
  }
}

// The token behind the newest one and the first `held` guesses.
engine::SampleRequest NextToken(const Sequence& sequence, int row, int held) {
  const RequestState& state = *sequence.request;
  engine::SampleRequest sample;
  sample.row = row;
  sample.params = &state.request.sampling;
  sample.choice = sequence.choice;
  sample.position = KnownTokens(sequence) + held;
  sample.drafted = std::span(sequence.draft).first(held);
  if (state.needs_counts) sample.counts = &sequence.counts;
  if (StopsMasked(state.request.stop, static_cast<int>(sequence.output.size()) + held)) {
    sample.masked = state.stop_ids;
  }
  sample.logprobs = state.request.logprobs;
  return sample;
}

}  // namespace

engine::StepBatch BuildStepBatch(std::span<const SeatRows> seats) {
  engine::StepBatch batch;
  for (const SeatRows& seat : seats) {
    const Sequence& sequence = *seat.sequence;
    engine::Segment segment;
    segment.row_begin = static_cast<int>(batch.ids.size());
    segment.num_rows = seat.rows;
    segment.num_drafts = seat.drafts;
    segment.num_prompt_rows =
        std::clamp(sequence.request->prompt_tokens() - sequence.kv_tokens, 0, seat.rows);
    for (int g = 0; g < engine::kNumKvGroups; ++g) {
      segment.block_table[g] = sequence.tables[g].blocks;
    }
    batch.segments.push_back(segment);
    batch.copies.insert(batch.copies.end(), seat.copies.begin(), seat.copies.end());
    const int end = sequence.kv_tokens + seat.rows;
    const int known_end = end - seat.drafts;
    for (int position = sequence.kv_tokens; position < end; ++position) {
      batch.ids.push_back(position < known_end ? TokenAt(sequence, position)
                                               : sequence.draft[position - known_end]);
      batch.positions.push_back(position);
    }
    AddScores(sequence, segment.row_begin, seat.rows, batch.samples);
    const Request& request = sequence.request->request;
    if (known_end == KnownTokens(sequence) && request.stop.max_tokens > 0) {
      const int first_row = segment.row_begin + seat.rows - seat.drafts - 1;
      for (int held = 0; held <= seat.drafts; ++held) {
        batch.samples.push_back(NextToken(sequence, first_row + held, held));
      }
    }
    if (seat.guess > 0) {
      batch.drafts.push_back({.segment = static_cast<int>(batch.segments.size()) - 1,
                              .max_tokens = seat.guess,
                              .prompt = request.prompt,
                              .output = sequence.output});
    }
  }
  return batch;
}

}  // namespace tandem::scheduler
