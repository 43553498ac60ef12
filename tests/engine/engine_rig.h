// A model, its KV blocks and hand-driven sequences: what the engine and golden tests run on.
//
// Block ids are handed out in a scattered order, freed and released blocks are filled with NaN, and
// sliding blocks are released as soon as no row can see them, so that a wrong read shows.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/load_model.h"
#include "engine/runner.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kvcache/block_store.h"
#include "kvcache/kv_formats.h"

namespace tandem::testing {

// Makes the device that the engine runs on; its host is the rig's CPU backend.
using MakeDevice =
    std::function<std::unique_ptr<kernels::DeviceBackend>(kernels::CpuBackend& host)>;

struct RigConfig {
  kernels::CpuIsa isa = kernels::BestCpuIsa();
  int threads = 2;
  bool f32 = true;  // --dtype f32: f32 operands and f32 KV; false: bf16 of both
  std::optional<kvcache::KvFormats> kv = {};  // KV in these formats instead
  kernels::WeightFormat weights = kernels::WeightFormat::kBf16;
  int block_tokens = 16;
  int blocks = 64;  // per group
  int max_step_rows = 256;
  MakeDevice device = nullptr;  // null: the CPU
  bool poison =
      true;  // fill blocks that nobody holds with NaN; costs more than a tiny model's step
};

// One growing sequence. Its KV rows [0, done) are stored.
struct RigSequence {
  std::vector<int32_t> ids;
  int done = 0;
  int prompt_tokens = 0;  // ids that were given, for backends that run them apart
  std::array<std::vector<int32_t>, engine::kNumKvGroups> tables;
};

// Rows of one sequence in a step, and what comes out for them.
struct RigRun {
  RigSequence* sequence = nullptr;
  int rows = 0;                            // the next `rows` ids of the sequence
  bool all_logits = false;                 // logits of every row; otherwise of the last one
  std::vector<std::vector<float>> logits;  // out
  std::vector<std::vector<float>> hidden;  // out: rows after the final norm
};

class EngineRig {
 public:
  // Loads tests/golden/<variant>/target. Fails the test and aborts when that is not possible.
  // `options.weights` is the configuration's.
  EngineRig(const std::string& model_dir, const RigConfig& config,
            engine::LoadOptions options = {});
  // Takes a model as it is.
  EngineRig(engine::Model model, kernels::CpuBackendPtr backend, const RigConfig& config);

  void Start();  // makes stores and runner; called by the constructors and after changing `model`

  // What Step does around a forward, for tests that build their own steps:
  void Cover(RigSequence& sequence, int rows);  // takes blocks for `rows` rows behind `done`
  void Retire(RigSequence& sequence);           // gives back blocks that no later row can see
  void Cut(RigSequence& sequence);              // gives back blocks that begin at `done` or behind

  void Step(std::span<RigRun> runs, const engine::StepTrace& trace = nullptr);

  // Runs all not yet stored ids of the sequence in chunks; returns the last row's logits.
  std::vector<float> Prefill(RigSequence& sequence, int chunk);
  // Appends `id` and runs it.
  std::vector<float> Decode(RigSequence& sequence, int32_t id);
  // Gives all blocks back: what a preemption or the end of a request does.
  void Free(RigSequence& sequence);

  int free_blocks(engine::KvGroup group) const { return static_cast<int>(free_[group].size()); }

  std::vector<engine::BlockCopy> copies;  // that the next Step begins with

  const kernels::Ops& ops() const {
    return device != nullptr ? device->ops() : kernels::CpuOps(*backend);
  }

  kernels::CpuBackendPtr backend;
  std::unique_ptr<kernels::DeviceBackend> device;
  engine::Model model;
  RigConfig config;
  std::array<std::unique_ptr<kvcache::BlockStore>, engine::kNumKvGroups> stores;
  std::unique_ptr<engine::Runner> runner;

 private:
  void Poison(engine::KvGroup group, int32_t block);
  std::array<std::vector<int32_t>, engine::kNumKvGroups> free_;
};

// The ISA levels this machine can run, lowest first.
std::vector<kernels::CpuIsa> PresentIsas();

// The largest value that may be chosen, lowest id on ties.
int32_t ArgMax(std::span<const float> logits, std::span<const int32_t> suppressed = {});

// The golden checkpoints, one per architecture branch.
inline constexpr const char* kVariants[] = {"e2b-like", "e4b-like", "12b-like", "26b-like",
                                            "31b-like"};
std::string GoldenDir(const std::string& variant);
// The configuration of a variant's target. Fails the test and aborts when it can not be read.
engine::ModelConfig GoldenTarget(const std::string& variant);
// As part of a test's name: "e2b_like".
std::string TestName(std::string variant);

}  // namespace tandem::testing
