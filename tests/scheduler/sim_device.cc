#include "tests/scheduler/sim_device.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"

namespace tandem::scheduler {
namespace {

uint64_t Mix(uint64_t x) {  // splitmix64
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t Extend(uint64_t history, int32_t id) {
  return Mix(history * 31 + static_cast<uint32_t>(id) + 1);
}

int32_t TokenAfter(const DrawState& state, std::span<const int32_t> masked, int vocab_size) {
  const uint64_t salt = 77 * state.choice + 1009 * state.seed + 100'003 * state.repeats;
  auto id = static_cast<int32_t>(Mix(state.history + salt) % vocab_size);
  while (std::find(masked.begin(), masked.end(), id) != masked.end()) id = (id + 1) % vocab_size;
  return id;
}

float LogprobAfter(uint64_t history, int32_t id) {
  return -static_cast<float>(Mix(history ^ static_cast<uint32_t>(id)) % 1000) / 64;
}

std::vector<int32_t> RightGuesses(const GuessQuery& query) {
  std::vector<int32_t> ids;
  DrawState state = query.state;
  while (static_cast<int>(ids.size()) < query.max_tokens) {
    ids.push_back(TokenAfter(state, query.masked, query.vocab_size));
    state.history = Extend(state.history, ids.back());
  }
  return ids;
}

SimDevice::SimDevice(const SchedulerConfig& config, const ModelLimits& limits)
    : config(config), limits(limits) {
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    cells[g].resize(static_cast<size_t>(limits.num_blocks[g]) * limits.block_tokens);
  }
}

engine::RunStep SimDevice::AsRunStep() {
  return [this](const engine::StepBatch& batch, engine::StepResult& result) {
    return Run(batch, result);
  };
}

void SimDevice::Error(const std::string& what) {
  if (errors.size() < 5) errors.push_back(absl::StrCat("step ", steps, ": ", what));
}

absl::Status SimDevice::Run(const engine::StepBatch& batch, engine::StepResult& result) {
  ++steps;
  CheckShape(batch);
  CheckTables(batch);
  for (const engine::BlockCopy& copy : batch.copies) Copy(copy);
  if (!errors.empty()) return absl::InternalError(errors.front());  // pointers may be wild

  int prompt_rows = 0;
  size_t sample = 0;
  step_drafts.emplace_back();
  step_asked.emplace_back();
  std::vector<Drawn> drawn;
  for (const engine::Segment& segment : batch.segments) {
    const std::vector<uint64_t> history = RunSegment(batch, segment);
    CheckGuesses(batch, segment, history);
    step_drafts.back().push_back(segment.num_drafts);
    const int row_end = segment.row_begin + segment.num_rows;
    const int first_position = batch.positions[segment.row_begin];
    if (segment.num_rows - segment.num_drafts > 1 || first_position == 0) {
      prompt_rows += segment.num_rows;
    }
    Drawn last;
    bool held = true;
    int rows_that_count = segment.num_rows;
    for (; sample < batch.samples.size() && batch.samples[sample].row < row_end; ++sample) {
      const engine::SampleRequest& request = batch.samples[sample];
      if (!held) {  // nobody may look at these
        result.tokens.push_back(
            {.id = steps % 2 == 0 ? -1 : limits.vocab_size + 7, .finite = steps % 3 != 0});
        continue;
      }
      const uint64_t seen = history[request.row - segment.row_begin];
      result.tokens.push_back(Draw(batch, request, seen));
      if (request.params == nullptr) continue;
      const engine::SampledToken& token = result.tokens.back();
      last = {.request = &request, .history = seen, .token = token};
      held = token.finite && request.row + 1 < row_end && batch.ids[request.row + 1] == token.id;
    }
    if (last.request != nullptr) {
      rows_that_count = last.request->row + 1 - segment.row_begin;
      Reject(segment, batch.positions[last.request->row] + 1,
             first_position + segment.num_rows - 1);
    }
    drawn.push_back(last);
    for (int row = 0; broken_rows && row < rows_that_count; ++row) {
      if (!broken_rows(first_position + row)) continue;
      result.broken_segments.push_back(static_cast<int>(&segment - batch.segments.data()));
      break;
    }
  }
  int draft_steps = 0;
  for (const engine::DraftRequest& request : batch.drafts) {
    step_asked.back().push_back(request.max_tokens);
    result.drafts.emplace_back();
    Guess(batch, request, drawn[request.segment], result.drafts.back());
    draft_steps = std::max(draft_steps, static_cast<int>(result.drafts.back().ids.size()));
  }
  rows += static_cast<int64_t>(batch.ids.size());
  step_prompt_rows.push_back(prompt_rows);
  result.draft_steps = draft_steps;
  result.draft_us = draft_step_us * draft_steps;
  now_us += base_us + prompt_row_us * prompt_rows +
            decode_row_us * (static_cast<int64_t>(batch.ids.size()) - prompt_rows) +
            result.draft_us;
  return next_status;
}

engine::SampledToken SimDevice::Draw(const engine::StepBatch& batch,
                                     const engine::SampleRequest& request, uint64_t seen) {
  engine::SampledToken token;
  if (request.position != batch.positions[request.row] + 1) Error("sample at a wrong position");
  if (request.params == nullptr) {
    token.id = request.score_id;
    token.logprob = LogprobAfter(seen, token.id);
  } else {
    DrawState state = {.history = seen, .choice = request.choice, .seed = request.params->seed};
    if (request.counts != nullptr) {
      const int32_t newest = batch.ids[request.row];
      auto counted = static_cast<int64_t>(request.drafted.size());
      state.repeats =
          static_cast<int>(std::count(request.drafted.begin(), request.drafted.end(), newest)) - 1;
      for (const auto* counts : {&request.counts->prompt, &request.counts->output}) {
        for (const auto& [id, count] : *counts) {
          counted += count;
          if (id == newest) state.repeats += count;
        }
      }
      if (counted != request.position) Error("token counts do not add up");
    }
    token.id = TokenAfter(state, request.masked, limits.vocab_size);
    if (request.logprobs.enabled) token.logprob = LogprobAfter(seen, token.id);
  }
  if (broken && broken(request.position)) token.finite = false;
  return token;
}

// The rows that a guess was fed to are those that were guessed behind the same ids.
void SimDevice::CheckGuesses(const engine::StepBatch& batch, const engine::Segment& segment,
                             const std::vector<uint64_t>& history) {
  if (segment.num_drafts == 0) return;
  if (segment.num_drafts < 0 || segment.num_drafts > config.max_draft_tokens ||
      segment.num_rows != segment.num_drafts + 1) {
    return Error(absl::StrCat(segment.num_drafts, " guesses in ", segment.num_rows, " rows"));
  }
  const auto first = std::find_if(
      batch.samples.begin(), batch.samples.end(),
      [&](const engine::SampleRequest& request) { return request.row >= segment.row_begin; });
  const std::span<const int32_t> fed(&batch.ids[segment.row_begin + 1], segment.num_drafts);
  for (int row = 0; row < segment.num_rows; ++row) {
    if (batch.samples.end() - first <= row) return Error("a verified row draws nothing");
    const engine::SampleRequest& request = first[row];
    if (request.row != segment.row_begin + row || request.params == nullptr) {
      return Error("a verified row draws nothing");
    }
    if (!std::equal(request.drafted.begin(), request.drafted.end(), fed.begin(),
                    fed.begin() + row)) {
      Error("a row draws behind other guesses than were fed");
    }
  }
  bool guessed_so = false;
  for (const std::vector<int32_t>& ids : guesses_[{history[0], first->choice}]) {
    guessed_so |= fed.size() <= ids.size() && std::equal(fed.begin(), fed.end(), ids.begin());
  }
  if (!guessed_so) Error("what is verified was not guessed here");
}

// Guesses at these positions did not hold.
void SimDevice::Reject(const engine::Segment& segment, int first, int last) {
  for (int position = first; position <= last; ++position) {
    for (int g = 0; g < engine::kNumKvGroups; ++g) {
      if (limits.num_blocks[g] == 0) continue;
      Cell* cell = At(segment, g, position);
      if (cell != nullptr) cell->rejected = true;
    }
  }
}

void SimDevice::Guess(const engine::StepBatch& batch, const engine::DraftRequest& request,
                      const Drawn& drawn, engine::Draft& draft) {
  if (drawn.request == nullptr) return Error("a draft behind a segment that draws nothing");
  if (request.max_tokens < 1 || request.max_tokens > config.max_draft_tokens) {
    Error(absl::StrCat("a draft of ", request.max_tokens));
  }
  if (!drawn.token.finite) return;
  const engine::Segment& segment = batch.segments[request.segment];
  // The drafter reads the rows below the newest token, as they are now: in sliding layers one
  // position further back than a row of the target (mtp.md 3.5).
  const int position = batch.positions[drawn.request->row] + 1;
  if (limits.num_blocks[engine::kFull] > 0) {
    CheckVisible(segment, engine::kFull, 0, position - 1);
  }
  if (limits.num_blocks[engine::kSliding] > 0) {
    CheckVisible(segment, engine::kSliding, std::max(0, position - limits.window), position - 1);
  }
  const int known = batch.positions[segment.row_begin] + segment.num_rows - segment.num_drafts;
  if (static_cast<int>(request.prompt.size() + request.output.size()) != known) {
    Error("a draft request does not hold the sequence");
  }
  if (!guess) return;
  const GuessQuery query = {.state = {.history = Extend(drawn.history, drawn.token.id),
                                      .choice = drawn.request->choice,
                                      .seed = drawn.request->params->seed},
                            .masked = drawn.request->masked,
                            .position = position,
                            .max_tokens = request.max_tokens,
                            .vocab_size = limits.vocab_size};
  draft = guess(query);
  guessed += static_cast<int64_t>(draft.ids.size());
  guesses_[{query.state.history, query.state.choice}].push_back(draft.ids);
}

void SimDevice::CheckShape(const engine::StepBatch& batch) {
  const int num_rows = static_cast<int>(batch.ids.size());
  if (num_rows == 0) Error("an empty step");
  if (num_rows > config.max_step_rows) Error(absl::StrCat(num_rows, " rows"));
  if (batch.positions.size() != batch.ids.size()) Error("positions and ids differ in number");
  if (batch.segments.size() > static_cast<size_t>(config.max_slots)) Error("too many segments");
  int next_row = 0;
  for (const engine::Segment& segment : batch.segments) {
    if (segment.row_begin != next_row || segment.num_rows < 1) Error("segments do not join");
    next_row = segment.row_begin + segment.num_rows;
    for (int row = segment.row_begin; row < std::min(next_row, num_rows); ++row) {
      if (batch.positions[row] != batch.positions[segment.row_begin] + row - segment.row_begin) {
        Error("positions are not consecutive");
      }
    }
  }
  if (next_row != num_rows) Error("segments do not cover the rows");
  int last_row = 0;
  for (const engine::SampleRequest& request : batch.samples) {
    if (request.row < last_row || request.row >= num_rows) Error("samples out of order");
    last_row = request.row;
  }
}

void SimDevice::CheckTables(const engine::StepBatch& batch) {
  for (int g = 0; g < engine::kNumKvGroups; ++g) {
    std::map<int32_t, size_t> entries;  // by block
    std::map<int32_t, int> tables;      // by block: how many have it
    std::set<int32_t> written;
    for (const engine::Segment& segment : batch.segments) {
      const std::span<const int32_t> table = segment.block_table[g];
      const size_t first_written = batch.positions[segment.row_begin] / limits.block_tokens;
      for (size_t i = 0; i < table.size(); ++i) {
        if (table[i] == -1) continue;
        if (table[i] < 0 || table[i] >= limits.num_blocks[g]) {
          return Error(absl::StrCat("block id ", table[i]));
        }
        if (entries.try_emplace(table[i], i).first->second != i) {
          Error(absl::StrCat("block ", table[i], " stands at two places"));
        }
        if (i >= first_written) written.insert(table[i]);
        if (++tables[table[i]] > 1 && written.contains(table[i])) {
          Error(absl::StrCat("block ", table[i], " is shared and written"));
        }
      }
    }
    for (const engine::BlockCopy& copy : batch.copies) {
      if (copy.group != g) continue;
      if (tables[copy.to] != 1) Error("a copy into a block that is not its sequence's own");
    }
  }
}

void SimDevice::Copy(const engine::BlockCopy& copy) {
  const int32_t blocks = limits.num_blocks[copy.group];
  if (copy.from < 0 || copy.from >= blocks || copy.to < 0 || copy.to >= blocks ||
      copy.from == copy.to) {
    return Error(absl::StrCat("a copy from ", copy.from, " to ", copy.to));
  }
  ++copied_blocks;
  const auto begin_of = [&](int32_t block) {
    return cells[copy.group].begin() + int64_t{block} * limits.block_tokens;
  };
  std::copy_n(begin_of(copy.from), limits.block_tokens, begin_of(copy.to));
}

SimDevice::Cell* SimDevice::At(const engine::Segment& segment, int group, int position) {
  const std::span<const int32_t> table = segment.block_table[group];
  const size_t entry = position / limits.block_tokens;
  if (entry >= table.size() || table[entry] < 0) {
    Error(absl::StrCat("group ", group, " has no block for position ", position));
    return nullptr;
  }
  return &cells[group][static_cast<size_t>(table[entry]) * limits.block_tokens +
                       position % limits.block_tokens];
}

// Checks that positions first..last hold consecutive rows of one history.
void SimDevice::CheckVisible(const engine::Segment& segment, int group, int first, int last) {
  const Cell* before = nullptr;
  for (int position = first; position <= last; ++position) {
    const Cell* cell = At(segment, group, position);
    if (cell == nullptr) return;
    const bool ours =
        cell->position == position &&
        (before != nullptr ? cell->history == Extend(before->history, cell->id)
                           : position > 0 || cell->history == Extend(kEmptyHistory, cell->id));
    if (!ours || cell->rejected) {
      Error(absl::StrCat("group ", group, ", position ", position, " holds a ",
                         ours ? "rejected" : "foreign", " row"));
      return;
    }
    before = cell;
  }
}

std::vector<uint64_t> SimDevice::RunSegment(const engine::StepBatch& batch,
                                            const engine::Segment& segment) {
  std::vector<uint64_t> history;
  const int first = batch.positions[segment.row_begin];
  const int last = first + segment.num_rows - 1;
  const int reference = limits.num_blocks[engine::kFull] > 0 ? engine::kFull : engine::kSliding;
  for (int position = first; position <= last; ++position) {
    const int32_t id = batch.ids[segment.row_begin + position - first];
    uint64_t before = kEmptyHistory;
    if (position > 0) {
      const Cell* cell = At(segment, reference, position - 1);
      if (cell != nullptr) before = cell->history;
    }
    history.push_back(Extend(before, id));
    for (int g = 0; g < engine::kNumKvGroups; ++g) {
      if (limits.num_blocks[g] == 0) continue;
      Cell* cell = At(segment, g, position);
      if (cell != nullptr) *cell = {.position = position, .id = id, .history = history.back()};
    }
  }
  // A full row sees everything; a sliding one its window. The union over the segment's rows:
  if (limits.num_blocks[engine::kFull] > 0) CheckVisible(segment, engine::kFull, 0, last);
  if (limits.num_blocks[engine::kSliding] > 0) {
    CheckVisible(segment, engine::kSliding, std::max(0, first - limits.window + 1), last);
  }
  return history;
}

}  // namespace tandem::scheduler
