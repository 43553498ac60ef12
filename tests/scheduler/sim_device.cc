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

int32_t TokenAfter(uint64_t history, int choice, std::span<const int32_t> masked, int vocab_size) {
  auto id = static_cast<int32_t>(Mix(history + 77 * choice) % vocab_size);
  while (std::find(masked.begin(), masked.end(), id) != masked.end()) id = (id + 1) % vocab_size;
  return id;
}

float LogprobAfter(uint64_t history, int32_t id) {
  return -static_cast<float>(Mix(history ^ static_cast<uint32_t>(id)) % 1000) / 64;
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
  if (!errors.empty()) return absl::InternalError(errors.front());  // pointers may be wild

  std::vector<uint64_t> history;  // [rows]
  int prompt_rows = 0;
  for (const engine::Segment& segment : batch.segments) {
    const std::vector<uint64_t> part = RunSegment(batch, segment);
    history.insert(history.end(), part.begin(), part.end());
    if (segment.num_rows > 1 || batch.positions[segment.row_begin] == 0) {
      prompt_rows += segment.num_rows;
    }
  }
  for (const engine::SampleRequest& request : batch.samples) {
    engine::SampledToken token;
    const uint64_t seen = history[request.row];
    if (request.position != batch.positions[request.row] + 1) Error("sample at a wrong position");
    if (request.params == nullptr) {
      token.id = request.score_id;
      token.logprob = LogprobAfter(seen, token.id);
    } else {
      token.id = TokenAfter(seen, request.choice, request.masked, limits.vocab_size);
      if (request.counts != nullptr) {
        int64_t counted = 0;
        for (const auto& [id, count] : request.counts->prompt) counted += count;
        for (const auto& [id, count] : request.counts->output) counted += count;
        if (counted != request.position) Error("token counts do not add up");
      }
    }
    if (broken && broken(request.position)) token.finite = false;
    result.tokens.push_back(token);
  }
  rows += static_cast<int64_t>(batch.ids.size());
  step_prompt_rows.push_back(prompt_rows);
  now_us += base_us + prompt_row_us * prompt_rows +
            decode_row_us * (static_cast<int64_t>(batch.ids.size()) - prompt_rows);
  return next_status;
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
    std::set<int32_t> owned;
    for (const engine::Segment& segment : batch.segments) {
      for (const int32_t block : segment.block_table[g]) {
        if (block == -1) continue;
        if (block < 0 || block >= limits.num_blocks[g]) Error(absl::StrCat("block id ", block));
        if (!owned.insert(block).second) Error(absl::StrCat("block ", block, " has two owners"));
      }
    }
  }
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
    if (!ours) {
      Error(absl::StrCat("group ", group, ", position ", position, " holds a foreign row"));
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
  // A full row sees everything; a sliding one its window, and a drafter one position further back
  // (mtp.md 3.5). The union over the segment's rows:
  if (limits.num_blocks[engine::kFull] > 0) CheckVisible(segment, engine::kFull, 0, last);
  if (limits.num_blocks[engine::kSliding] > 0) {
    CheckVisible(segment, engine::kSliding, std::max(0, first - limits.window), last);
  }
  return history;
}

}  // namespace tandem::scheduler
