// What Hugging Face transformers computed on a golden checkpoint: golden.safetensors by name.
// How the numbers came about, and the tolerances, are in tests/golden/README.md.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/checkpoint.h"

namespace tandem::testing {

// Absolute tolerances of a correct f32 engine: ten times what an independent transcription shows.
constexpr float kLogitTolerance = 1e-3f;   // logits, rows after the final norm
constexpr float kLayerTolerance = 1e-4f;   // layer outputs, K, V, per-layer inputs
constexpr float kExpertTolerance = 2e-5f;  // expert weights
// transformers' own bf16 run against its f32 run, last position, all variants.
constexpr float kBf16MaxAbs = 0.92f;
constexpr float kBf16Rms = 0.25f;

class GoldenData {
 public:
  explicit GoldenData(const std::string& variant);

  bool Has(const std::string& name) const { return tensors_.contains(name); }
  std::vector<float> Floats(const std::string& name) const;
  std::vector<int32_t> Ints(const std::string& name) const;  // I64 or I32 tensors
  std::vector<int64_t> Shape(const std::string& name) const;

 private:
  std::unique_ptr<engine::MappedFile> file_;
  std::map<std::string, engine::Tensor, std::less<>> tensors_;
};

// The largest |a[i] - b[i]|; infinite for a NaN, and where the sizes differ.
double MaxAbsDiff(std::span<const float> a, std::span<const float> b);

}  // namespace tandem::testing
