#include "tests/speculation/plain_text.h"

#include <algorithm>
#include <cstring>

namespace tandem::testing {
namespace {

bool SameBits(float a, float b) { return std::memcmp(&a, &b, sizeof(float)) == 0; }

bool Among(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

std::vector<int32_t> PlainChoice::ids() const {
  std::vector<int32_t> ids;
  for (const engine::SampledToken& token : tokens) ids.push_back(token.id);
  return ids;
}

PlainChoice SpeakAlone(EngineRig& rig, const scheduler::Request& request, int choice,
                       int max_known) {
  using scheduler::FinishReason;
  const scheduler::StopParams& stop = request.stop;
  std::vector<int32_t> masked = stop.eos_ids;
  masked.insert(masked.end(), stop.stop_ids.begin(), stop.stop_ids.end());
  engine::TokenCounts counts;
  for (const int32_t id : request.prompt) ++counts.prompt[id];
  engine::SampleScratch scratch;
  PlainChoice said;
  RigSequence sequence{.ids = request.prompt};
  while (true) {
    const std::vector<float> logits = rig.Prefill(sequence, rig.config.max_step_rows);
    engine::SampleRequest sample;
    sample.params = &request.sampling;
    sample.choice = choice;
    sample.position = static_cast<int64_t>(sequence.ids.size());
    sample.counts = &counts;
    if (static_cast<int>(said.tokens.size()) < stop.min_tokens) sample.masked = masked;
    sample.logprobs = request.logprobs;
    const engine::SampledToken token =
        engine::Sample(logits, sample, rig.model.config.generation.suppressed_ids, scratch);
    said.finite = token.finite;
    if (!token.finite) break;
    said.tokens.push_back(token);
    sequence.ids.push_back(token.id);
    ++counts.output[token.id];
    if (Among(stop.stop_ids, token.id) || Among(stop.eos_ids, token.id)) {
      said.reason =
          Among(stop.stop_ids, token.id) ? FinishReason::kStopToken : FinishReason::kStopEos;
      said.stop_id = token.id;
      break;
    }
    if (static_cast<int>(said.tokens.size()) >= stop.max_tokens) {
      said.reason = FinishReason::kMaxTokens;
      break;
    }
    if (static_cast<int>(sequence.ids.size()) >= max_known) {
      said.reason = FinishReason::kContextLength;
      break;
    }
  }
  rig.Free(sequence);
  return said;
}

std::vector<engine::SampledToken> ScoreAlone(EngineRig& rig, const scheduler::Request& request) {
  RigSequence sequence{.ids = request.prompt};
  RigRun run{
      .sequence = &sequence, .rows = static_cast<int>(request.prompt.size()), .all_logits = true};
  rig.Step({&run, 1});
  rig.Free(sequence);
  engine::SampleScratch scratch;
  std::vector<engine::SampledToken> scores;
  for (size_t position = 1; position < request.prompt.size(); ++position) {
    engine::SampleRequest score;
    score.position = static_cast<int64_t>(position);
    score.logprobs = request.prompt_logprobs;
    score.score_id = request.prompt[position];
    scores.push_back(engine::Sample(run.logits[position - 1], score,
                                    rig.model.config.generation.suppressed_ids, scratch));
  }
  return scores;
}

bool SameToken(const engine::SampledToken& a, const engine::SampledToken& b) {
  const auto same_top = [](const engine::TopLogprob& x, const engine::TopLogprob& y) {
    return x.id == y.id && SameBits(x.logprob, y.logprob);
  };
  return a.id == b.id && SameBits(a.logprob, b.logprob) && a.rank == b.rank &&
         a.finite == b.finite &&
         std::equal(a.top.begin(), a.top.end(), b.top.begin(), b.top.end(), same_top);
}

}  // namespace tandem::testing
