#include "tests/speculation/tiny_model.h"

#include <cstdlib>
#include <iostream>
#include <random>
#include <utility>

#include "absl/strings/str_format.h"

namespace tandem::testing {
namespace {

template <typename T>
T Must(absl::StatusOr<T> value) {
  if (!value.ok()) {
    std::cerr << "tiny model: " << value.status() << std::endl;
    std::abort();
  }
  return *std::move(value);
}

engine::ModelConfig TinyConfig(const TinyShape& shape) {
  std::string types;
  for (int i = 0; i < shape.layers; ++i) {
    const bool full = i + 1 == shape.layers || (shape.shared > 0 && i == 1);
    types += absl::StrFormat("%s\"%s_attention\"", i == 0 ? "" : ",", full ? "full" : "sliding");
  }
  const std::string json = absl::StrFormat(
      R"({"model_type": "gemma4_text", "hidden_size": %d, "vocab_size": %d,
          "num_hidden_layers": %d, "num_kv_shared_layers": %d, "num_attention_heads": 1,
          "num_key_value_heads": 1, "intermediate_size": 16, "global_head_dim": %d,
          "sliding_window": %d,
          "max_position_embeddings": 4096, "hidden_size_per_layer_input": 0,
          "layer_types": [%s], "bos_token_id": 0, "pad_token_id": 0})",
      shape.hidden, shape.vocab, shape.layers, shape.shared, shape.full_head, shape.window, types);
  return Must(engine::ParseModelConfig(json, "", "tiny"));
}

}  // namespace

EngineRig TinyRig(const TinyShape& shape, uint64_t seed, RigConfig config) {
  kernels::CpuConfig cpu;
  cpu.threads = config.threads;
  cpu.isa = config.isa;
  cpu.bf16_operands = !config.f32;
  kernels::CpuBackendPtr backend = Must(kernels::MakeCpuBackend(cpu));
  engine::Model model = Must(engine::LoadDummy(TinyConfig(shape), seed, kernels::CpuOps(*backend),
                                               nullptr, config.weights));
  std::mt19937_64 random(seed);
  for (int i = 0; i < shape.hidden; ++i) {
    const bool minus = random() % 2 == 0;
    const_cast<float*>(model.weights.final_norm)[i] = minus ? -shape.spread : shape.spread;
  }
  return EngineRig(std::move(model), std::move(backend), config);
}

}  // namespace tandem::testing
