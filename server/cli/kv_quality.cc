#include "server/cli/kv_quality.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "engine/kv_layers.h"
#include "engine/runner.h"
#include "kvcache/block_store.h"
#include "kvcache/block_table.h"

namespace tandem::server {
namespace {

using engine::kFull;
using engine::kSliding;

// Logits of so many rows are held twice: 256 MiB of the largest vocabulary.
constexpr int kStepRows = 128;
constexpr int kFirstRange = 32;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

absl::Status InFormat(const KvChoice& choice, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrFormat("%s: %s", choice.name, std::string(status.message())));
}

// A runner with blocks of its own for one sequence.
class FormatRunner {
 public:
  static absl::StatusOr<std::unique_ptr<FormatRunner>> Create(const engine::Model& model,
                                                              const kernels::Ops& ops,
                                                              const KvChoice& choice,
                                                              int block_tokens, int tokens) {
    auto self = std::make_unique<FormatRunner>();
    std::array<kvcache::BlockStore*, engine::kNumKvGroups> stores = {};
    const int blocks = kvcache::BlocksFor(tokens, block_tokens);
    for (const engine::KvGroup group : {kSliding, kFull}) {
      absl::StatusOr<std::vector<kvcache::LayerKv>> layers =
          engine::KvLayers(model.config, group, choice.formats);
      if (!layers.ok()) return InFormat(choice, layers.status());
      if (layers->empty()) continue;
      absl::StatusOr<kvcache::GroupLayout> layout =
          kvcache::MakeGroupLayout(block_tokens, *std::move(layers));
      if (!layout.ok()) return InFormat(choice, layout.status());
      absl::StatusOr<kvcache::BlockStore> store =
          kvcache::BlockStore::Create(*std::move(layout), blocks, ops.memory);
      if (!store.ok()) return InFormat(choice, store.status());
      self->stores_[group] = *std::move(store);
      stores[group] = &*self->stores_[group];
    }
    absl::StatusOr<std::unique_ptr<engine::Runner>> runner =
        engine::Runner::Create(model, ops, stores, {.max_step_rows = kStepRows});
    if (!runner.ok()) return InFormat(choice, runner.status());
    self->runner_ = *std::move(runner);
    self->table_.resize(blocks);
    std::iota(self->table_.begin(), self->table_.end(), 0);
    return self;
  }

  double BytesPerToken(engine::KvGroup group) const {
    const std::optional<kvcache::BlockStore>& store = stores_[group];
    if (!store.has_value()) return 0.0;
    return static_cast<double>(store->bytes()) /
           (static_cast<double>(store->num_blocks()) * store->layout().block_tokens);
  }

  // Runs rows [begin, end) of a text; logits() are then those of its rows from first_scored on.
  //   returns  whether all K and V rows were finite
  absl::StatusOr<bool> Run(const ScoredText& text, int begin, int end) {
    engine::StepBatch batch;
    batch.ids.assign(text.ids.begin() + begin, text.ids.begin() + end);
    batch.positions.resize(batch.ids.size());
    std::iota(batch.positions.begin(), batch.positions.end(), begin);
    batch.segments = {{.num_rows = end - begin}};
    for (const engine::KvGroup group : {kSliding, kFull}) {
      if (stores_[group].has_value()) batch.segments[0].block_table[group] = table_;
    }
    for (int row = std::max(begin, text.first_scored); row < end; ++row) {
      batch.samples.push_back({.row = row - begin, .position = row + 1, .score_id = 0});
    }
    logits_.clear();
    engine::StepResult result;
    const absl::Status status = runner_->Run(
        batch, result,
        [this](std::string_view what, int, std::span<const int>, std::span<const float> data) {
          if (what == "logits") logits_.insert(logits_.end(), data.begin(), data.end());
        });
    if (!status.ok()) return status;
    return result.broken_segments.empty();
  }

  // [scored rows of the step, vocab]
  std::span<float> logits() { return logits_; }

 private:
  std::array<std::optional<kvcache::BlockStore>, engine::kNumKvGroups> stores_;
  std::unique_ptr<engine::Runner> runner_;
  std::vector<int32_t> table_;
  std::vector<float> logits_;
};

// Row by row, on the backend's team.
std::vector<Divergence> DivergeRows(const kernels::Ops& ops, std::span<const float> reference,
                                    std::span<const float> other, size_t vocab) {
  struct Context {
    std::span<const float> reference, other;
    size_t vocab;
    std::vector<Divergence> rows;
  };
  Context context = {reference, other, vocab, std::vector<Divergence>(reference.size() / vocab)};
  ops.for_each(
      ops.backend, static_cast<int>(context.rows.size()),
      [](void* opaque, int row) {
        Context& c = *static_cast<Context*>(opaque);
        c.rows[row] = Diverge(c.reference.subspan(row * c.vocab, c.vocab),
                              c.other.subspan(row * c.vocab, c.vocab));
      },
      &context);
  return context.rows;
}

absl::Status NotFinite(const char* what, size_t text, const KvChoice& choice) {
  return absl::DataLossError(
      absl::StrFormat("text %d, %s: %s are not finite, so that nothing can be compared; check the "
                      "checkpoint with `tandem run`",
                      text + 1, choice.name, what));
}

// What the model never says does not count.
void Suppress(std::span<float> logits, const engine::ModelConfig& config) {
  for (size_t row = 0; row < logits.size(); row += config.vocab) {
    for (const int32_t id : config.generation.suppressed_ids) logits[row + id] = -kInfinity;
  }
}

size_t IndexOf(const std::vector<std::string>& tasks, const std::string& task) {
  return std::find(tasks.begin(), tasks.end(), task) - tasks.begin();
}

size_t RangeOf(const std::vector<PositionRange>& ranges, int position) {
  return std::find_if(ranges.begin(), ranges.end(),
                      [&](const PositionRange& range) { return position < range.end; }) -
         ranges.begin();
}

int LongestText(const std::vector<ScoredText>& texts) {
  size_t longest = 0;
  for (const ScoredText& text : texts) longest = std::max(longest, text.ids.size());
  return static_cast<int>(longest);
}

}  // namespace

std::vector<PositionRange> PositionRanges(int positions) {
  std::vector<PositionRange> ranges;
  for (int begin = 0, end = kFirstRange; begin < positions; begin = end, end *= 2) {
    ranges.push_back({begin, end});
  }
  return ranges;
}

absl::StatusOr<QualityResult> CompareFormats(const engine::Model& model, const kernels::Ops& ops,
                                             const QualityPlan& plan,
                                             const std::function<void(int64_t done)>& done) {
  const int longest = LongestText(plan.texts);
  const size_t vocab = model.config.vocab;
  QualityResult result = {.reference = {.choice = plan.reference},
                          .ranges = PositionRanges(longest)};
  for (const ScoredText& text : plan.texts) {
    if (IndexOf(result.tasks, text.task) == result.tasks.size()) result.tasks.push_back(text.task);
  }
  const auto make = [&](FormatQuality& quality) {
    absl::StatusOr<std::unique_ptr<FormatRunner>> runner =
        FormatRunner::Create(model, ops, quality.choice, plan.block_tokens, std::max(longest, 1));
    if (!runner.ok()) return runner;
    for (const engine::KvGroup group : {kSliding, kFull}) {
      quality.bytes_per_token[group] = (*runner)->BytesPerToken(group);
    }
    quality.by_task.resize(result.tasks.size());
    quality.by_range.resize(result.ranges.size());
    return runner;
  };
  const absl::StatusOr<std::unique_ptr<FormatRunner>> reference = make(result.reference);
  if (!reference.ok()) return reference.status();
  std::vector<std::unique_ptr<FormatRunner>> runners;
  for (const KvChoice& choice : plan.formats) {
    absl::StatusOr<std::unique_ptr<FormatRunner>> runner =
        make(result.formats.emplace_back(FormatQuality{.choice = choice}));
    if (!runner.ok()) return runner.status();
    runners.push_back(*std::move(runner));
  }

  for (size_t i = 0; i < plan.texts.size(); ++i) {
    const ScoredText& text = plan.texts[i];
    const int tokens = static_cast<int>(text.ids.size());
    const size_t task = IndexOf(result.tasks, text.task);
    std::vector<bool> same(runners.size(), true);
    for (int begin = 0; begin < tokens; begin += kStepRows) {
      const int end = std::min(begin + kStepRows, tokens);
      const int first_scored = std::max(begin, text.first_scored);
      const absl::StatusOr<bool> finite = (*reference)->Run(text, begin, end);
      if (!finite.ok()) return finite.status();
      if (!*finite) return NotFinite("K or V", i, plan.reference);
      const std::span<float> logits = (*reference)->logits();
      if (!std::all_of(logits.begin(), logits.end(), [](float x) { return x < kInfinity; })) {
        return NotFinite("logits", i, plan.reference);
      }
      Suppress(logits, model.config);
      for (size_t f = 0; f < runners.size(); ++f) {
        FormatQuality& quality = result.formats[f];
        const absl::StatusOr<bool> other_finite = runners[f]->Run(text, begin, end);
        if (!other_finite.ok()) return InFormat(quality.choice, other_finite.status());
        if (!*other_finite) return NotFinite("K or V", i, quality.choice);
        const std::vector<Divergence> rows = DivergeRows(ops, logits, runners[f]->logits(), vocab);
        for (size_t row = 0; row < rows.size(); ++row) {
          quality.all.Add(rows[row]);
          quality.by_task[task].Add(rows[row]);
          quality.by_range[RangeOf(result.ranges, first_scored + static_cast<int>(row))].Add(
              rows[row]);
          if (!rows[row].same_top) same[f] = false;
        }
      }
      result.positions += static_cast<int64_t>(logits.size() / vocab);
    }
    for (size_t f = 0; f < runners.size(); ++f) result.formats[f].same_texts += same[f] ? 1 : 0;
    ++result.texts;
    if (done) done(result.texts);
  }
  return result;
}

}  // namespace tandem::server
