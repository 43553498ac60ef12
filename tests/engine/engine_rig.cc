#include "tests/engine/engine_rig.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>
#include <utility>

#include "engine/kv_layers.h"

namespace tandem::testing {
namespace {

using engine::kFull;
using engine::kSliding;
using engine::KvGroup;

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::cerr << "test rig: " << value.status() << std::endl;
    std::abort();
  }
  return *std::move(value);
}

kernels::CpuBackendPtr MakeBackend(const RigConfig& config) {
  kernels::CpuConfig cpu;
  cpu.threads = config.threads;
  cpu.isa = config.isa;
  cpu.bf16_operands = !config.f32;
  return Must(kernels::MakeCpuBackend(cpu));
}

}  // namespace

EngineRig::EngineRig(const std::string& model_dir, const RigConfig& config,
                     engine::LoadOptions options)
    : backend(MakeBackend(config)), config(config) {
  options.weights = config.weights;
  if (config.device) device = config.device(*backend);
  model = Must(engine::LoadCheckpoint(model_dir, options, ops(), nullptr));
  Start();
}

EngineRig::EngineRig(engine::Model loaded, kernels::CpuBackendPtr made, const RigConfig& config)
    : backend(std::move(made)), model(std::move(loaded)), config(config) {
  Start();
}

void EngineRig::Start() {
  const kernels::KvFormat plain = config.f32 ? kernels::KvFormat::kF32 : kernels::KvFormat::kBf16;
  const kvcache::KvFormats formats = config.kv.value_or(
      kvcache::KvFormats{.groups = {kvcache::KvPair{plain, plain}, kvcache::KvPair{plain, plain}}});
  std::array<kvcache::BlockStore*, engine::kNumKvGroups> pointers = {};
  std::mt19937 random(7);
  for (const KvGroup group : {kSliding, kFull}) {
    std::vector<kvcache::LayerKv> layers = Must(engine::KvLayers(model.config, group, formats));
    if (layers.empty()) continue;
    stores[group] = std::make_unique<kvcache::BlockStore>(Must(kvcache::BlockStore::Create(
        Must(kvcache::MakeGroupLayout(config.block_tokens, std::move(layers))), config.blocks,
        ops().memory)));
    pointers[group] = stores[group].get();
    free_[group].resize(config.blocks);
    for (int b = 0; b < config.blocks; ++b) {
      free_[group][b] = b;
      Poison(group, b);
    }
    std::shuffle(free_[group].begin(), free_[group].end(), random);
  }
  engine::RunnerConfig runner_config;
  runner_config.max_step_rows = config.max_step_rows;
  runner = Must(engine::Runner::Create(model, ops(), pointers, runner_config));
}

void EngineRig::Poison(KvGroup group, int32_t block) {
  if (!config.poison) return;
  const kernels::KvView view = stores[group]->View(0);  // layer 0 starts a block
  std::memset(view.base + block * view.block_stride, 0xff, stores[group]->layout().block_bytes);
}

void EngineRig::Cover(RigSequence& sequence, int rows) {
  for (const KvGroup group : {kSliding, kFull}) {
    if (stores[group] == nullptr) continue;
    std::vector<int32_t>& table = sequence.tables[group];
    while (static_cast<int>(table.size()) * config.block_tokens < sequence.done + rows) {
      if (free_[group].empty()) {
        std::cerr << "test rig: out of blocks" << std::endl;
        std::abort();
      }
      table.push_back(free_[group].back());
      free_[group].pop_back();
    }
  }
}

void EngineRig::Retire(RigSequence& sequence) {
  // The next row stands at position `done`; blocks that end before its window are dead.
  std::vector<int32_t>& table = sequence.tables[kSliding];
  const int first_visible = sequence.done - model.config.sliding_window + 1;
  for (int b = 0; (b + 1) * config.block_tokens <= first_visible; ++b) {
    if (table.empty() || table[b] < 0) continue;
    Poison(kSliding, table[b]);
    free_[kSliding].push_back(table[b]);
    table[b] = -1;
  }
}

void EngineRig::Cut(RigSequence& sequence) {
  for (const KvGroup group : {kSliding, kFull}) {
    std::vector<int32_t>& table = sequence.tables[group];
    while (!table.empty() &&
           (static_cast<int>(table.size()) - 1) * config.block_tokens >= sequence.done) {
      Poison(group, table.back());
      free_[group].push_back(table.back());
      table.pop_back();
    }
  }
}

void EngineRig::Step(std::span<RigRun> runs, const engine::StepTrace& trace) {
  engine::StepBatch batch;
  batch.copies = std::exchange(copies, {});
  const engine::SamplingParams greedy{.temperature = 0.0f};
  std::map<int, std::pair<RigRun*, int>> wanted;  // batch row -> run and its row
  for (RigRun& run : runs) {
    RigSequence& sequence = *run.sequence;
    engine::Segment segment;
    segment.row_begin = static_cast<int>(batch.ids.size());
    segment.num_rows = run.rows;
    segment.num_prompt_rows = std::clamp(sequence.prompt_tokens - sequence.done, 0, run.rows);
    Cover(sequence, run.rows);
    for (const KvGroup group : {kSliding, kFull}) {
      if (stores[group] != nullptr) segment.block_table[group] = sequence.tables[group];
    }
    for (int r = 0; r < run.rows; ++r) {
      batch.ids.push_back(sequence.ids[sequence.done + r]);
      batch.positions.push_back(sequence.done + r);
      if (run.all_logits || r == run.rows - 1) {
        wanted[segment.row_begin + r] = {&run, r};
        batch.samples.push_back({.row = segment.row_begin + r, .params = &greedy});
      }
    }
    batch.segments.push_back(segment);
    run.logits.clear();
    run.hidden.clear();
  }
  engine::StepResult result;
  const absl::Status status =
      runner->Run(batch, result,
                  [&](std::string_view what, int layer, std::span<const int> rows,
                      std::span<const float> data) {
                    if (trace) trace(what, layer, rows, data);
                    if (what != "logits" && what != "hidden") return;
                    const size_t dim = data.size() / rows.size();
                    for (size_t i = 0; i < rows.size(); ++i) {
                      RigRun& run = *wanted.at(rows[i]).first;
                      auto& out = what == "logits" ? run.logits : run.hidden;
                      out.emplace_back(data.begin() + i * dim, data.begin() + (i + 1) * dim);
                    }
                  });
  if (!status.ok()) {
    std::cerr << "test rig: " << status << std::endl;
    std::abort();
  }
  for (RigRun& run : runs) {
    run.sequence->done += run.rows;
    Retire(*run.sequence);
  }
}

std::vector<float> EngineRig::Prefill(RigSequence& sequence, int chunk) {
  std::vector<float> logits;
  while (sequence.done < static_cast<int>(sequence.ids.size())) {
    RigRun run{.sequence = &sequence};
    run.rows = std::min<int>(chunk, sequence.ids.size() - sequence.done);
    Step({&run, 1});
    logits = std::move(run.logits.back());
  }
  return logits;
}

std::vector<float> EngineRig::Decode(RigSequence& sequence, int32_t id) {
  sequence.ids.push_back(id);
  return Prefill(sequence, 1);
}

void EngineRig::Free(RigSequence& sequence) {
  for (const KvGroup group : {kSliding, kFull}) {
    for (const int32_t block : sequence.tables[group]) {
      if (block < 0) continue;
      Poison(group, block);
      free_[group].push_back(block);
    }
    sequence.tables[group].clear();
  }
  sequence.done = 0;
}

std::vector<kernels::CpuIsa> PresentIsas() {
  std::vector<kernels::CpuIsa> isas;
  for (int isa = 0; isa <= static_cast<int>(kernels::BestCpuIsa()); ++isa) {
    isas.push_back(static_cast<kernels::CpuIsa>(isa));
  }
  return isas;
}

int32_t ArgMax(std::span<const float> logits, std::span<const int32_t> suppressed) {
  int32_t best = -1;
  for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
    if (std::find(suppressed.begin(), suppressed.end(), id) != suppressed.end()) continue;
    if (best < 0 || logits[id] > logits[best]) best = id;
  }
  return best;
}

std::string GoldenDir(const std::string& variant) {
  return std::string(TANDEM_SOURCE_DIR) + "/tests/golden/" + variant;
}

engine::ModelConfig GoldenTarget(const std::string& variant) {
  return *engine::ReadModelConfig(GoldenDir(variant) + "/target");
}

std::string TestName(std::string variant) {
  std::replace(variant.begin(), variant.end(), '-', '_');
  return variant;
}

}  // namespace tandem::testing
