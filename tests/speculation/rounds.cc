#include "tests/speculation/rounds.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <utility>

#include "tests/engine/kv_rows.h"

namespace tandem::testing {
namespace {

using engine::kFull;
using engine::kSliding;
using engine::KvGroup;

// Calls f(bytes) for what makes up the K and V rows of every layer and head of the group at
// `position`.
template <typename F>
void ForKvRows(const EngineRig& rig, const RigSequence& sequence, KvGroup group, int position,
               F f) {
  const int cell = position % rig.config.block_tokens;
  const int32_t block = sequence.tables[group][position / rig.config.block_tokens];
  const std::vector<int> owners = rig.model.config.KvOwners(group);
  for (size_t i = 0; i < owners.size(); ++i) {
    const engine::LayerDesc& layer = rig.model.config.layers[owners[i]];
    const kernels::KvView view = rig.stores[group]->View(static_cast<int>(i));
    for (int head = 0; head < layer.num_kv_heads; ++head) {
      for (const auto run : KvRowRuns(view, layer.head_dim, block, head, cell)) f(run);
    }
  }
}

bool HasPenalty(const engine::SamplingParams& p) {
  return p.repetition_penalty != 1.0f || p.frequency_penalty != 0.0f || p.presence_penalty != 0.0f;
}

}  // namespace

DraftedSequence NewSequence(std::vector<int32_t> prompt, int tokens, int max_draft) {
  DraftedSequence s;
  s.max_draft = max_draft;
  s.max_known = static_cast<int>(prompt.size()) + tokens;
  s.sequence.ids = prompt;
  for (const int32_t id : prompt) ++s.counts.prompt[id];
  s.prompt = std::move(prompt);
  return s;
}

RoundRig::RoundRig(EngineRig& rig, engine::Propose propose, const kernels::Ops* ops) : rig(rig) {
  std::array<kvcache::BlockStore*, engine::kNumKvGroups> stores = {};
  for (const KvGroup group : {kSliding, kFull}) stores[group] = rig.stores[group].get();
  auto runner = engine::Runner::Create(rig.model, ops != nullptr ? *ops : rig.ops(), stores,
                                       {.max_step_rows = rig.config.max_step_rows}, propose);
  if (!runner.ok()) {
    std::cerr << "round rig: " << runner.status() << std::endl;
    std::abort();
  }
  runner_ = *std::move(runner);
}

void RoundRig::Step(std::span<DraftedSequence* const> sequences, int chunk) {
  engine::StepBatch batch;
  std::vector<std::pair<DraftedSequence*, size_t>> running;  // and where its samples begin
  for (DraftedSequence* s : sequences) {
    if (s->ended()) continue;
    const int known = static_cast<int>(s->sequence.ids.size());
    const int drafts = static_cast<int>(s->draft.size());
    engine::Segment segment;
    segment.row_begin = static_cast<int>(batch.ids.size());
    segment.num_rows = std::min(known - s->sequence.done, chunk) + drafts;
    segment.num_drafts = drafts;
    segment.num_prompt_rows =
        std::clamp(static_cast<int>(s->prompt.size()) - s->sequence.done, 0, segment.num_rows);
    rig.Cover(s->sequence, segment.num_rows);
    for (const KvGroup group : {kSliding, kFull}) {
      if (rig.stores[group] != nullptr) segment.block_table[group] = s->sequence.tables[group];
    }
    for (int r = 0; r < segment.num_rows; ++r) {
      const int position = s->sequence.done + r;
      batch.ids.push_back(position < known ? s->sequence.ids[position]
                                           : s->draft[position - known]);
      batch.positions.push_back(position);
    }
    running.push_back({s, batch.samples.size()});
    const int end = s->sequence.done + segment.num_rows;
    for (int position = known - 1; position < end; ++position) {
      engine::SampleRequest sample;
      sample.row = segment.row_begin + position - s->sequence.done;
      sample.params = &s->params;
      sample.choice = s->choice;
      sample.position = position + 1;
      if (HasPenalty(s->params)) sample.counts = &s->counts;
      sample.drafted = std::span<const int32_t>(s->draft).first(position + 1 - known);
      sample.logprobs = s->logprobs;
      batch.samples.push_back(sample);
    }
    if (end >= known && s->max_draft > 0) {
      batch.drafts.push_back({.segment = static_cast<int>(batch.segments.size()),
                              .max_tokens = s->max_draft,
                              .prompt = s->prompt,
                              .output = s->output});
    }
    batch.segments.push_back(segment);
  }
  if (batch.segments.empty()) return;
  if (tamper) tamper(batch);
  const absl::Status status = runner_->Run(batch, result);
  if (!status.ok()) {
    std::cerr << "round rig: " << status << std::endl;
    std::abort();
  }
  for (size_t i = 0; i < running.size(); ++i) {
    const size_t end = i + 1 < running.size() ? running[i + 1].second : result.tokens.size();
    Commit(*running[i].first, batch.segments[i],
           std::span<const engine::SampledToken>(result.tokens)
               .subspan(running[i].second, end - running[i].second));
  }
  for (size_t i = 0; i < batch.drafts.size(); ++i) {
    DraftedSequence& s = *running[batch.drafts[i].segment].first;
    s.draft = std::move(result.drafts[i].ids);
    const int useful = s.max_known - static_cast<int>(s.sequence.ids.size()) - 1;
    if (static_cast<int>(s.draft.size()) > useful) s.draft.resize(std::max(0, useful));
  }
}

void RoundRig::Commit(DraftedSequence& s, const engine::Segment& segment,
                      std::span<const engine::SampledToken> tokens) {
  int emitted = 0;
  for (const engine::SampledToken& token : tokens) {
    if (token.id < 0 && token.finite) break;
    if (!token.finite) {
      std::cerr << "round rig: logits are not finite" << std::endl;
      std::abort();
    }
    ++emitted;
    s.sequence.ids.push_back(token.id);
    s.output.push_back(token.id);
    ++s.counts.output[token.id];
    s.drawn.push_back(token);
  }
  const int drafts = segment.num_drafts;
  const int accepted = tokens.empty() ? 0 : emitted - 1;
  if (!tokens.empty()) s.rounds.push_back({drafts, accepted});
  s.draft.clear();
  s.sequence.done += segment.num_rows - drafts + accepted;
  rig.Cut(s.sequence);
  if (rig.config.poison) PoisonDeadRows(s.sequence);
  rig.Retire(s.sequence);
}

void RoundRig::PoisonDeadRows(const RigSequence& sequence) {
  const int held = (sequence.done + rig.config.block_tokens - 1) / rig.config.block_tokens *
                   rig.config.block_tokens;
  for (const KvGroup group : {kSliding, kFull}) {
    if (rig.stores[group] == nullptr) continue;
    for (int position = sequence.done; position < held; ++position) {
      ForKvRows(rig, sequence, group, position,
                [](std::span<std::byte> run) { std::memset(run.data(), 0xff, run.size()); });
    }
  }
}

void RoundRig::Run(std::span<DraftedSequence* const> sequences, int chunk) {
  const auto ended = [](const DraftedSequence* s) { return s->ended(); };
  while (!std::all_of(sequences.begin(), sequences.end(), ended)) Step(sequences, chunk);
}

void RoundRig::Run(DraftedSequence& sequence, int chunk) {
  DraftedSequence* const one[] = {&sequence};
  Run(one, chunk);
}

void RoundRig::Drop(DraftedSequence& s) {
  rig.Free(s.sequence);
  s.draft.clear();
}

std::vector<std::byte> KvRow(const EngineRig& rig, const RigSequence& sequence, KvGroup group,
                             int position) {
  std::vector<std::byte> bytes;
  ForKvRows(rig, sequence, group, position, [&](std::span<const std::byte> run) {
    bytes.insert(bytes.end(), run.begin(), run.end());
  });
  return bytes;
}

}  // namespace tandem::testing
