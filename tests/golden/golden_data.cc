#include "tests/golden/golden_data.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <limits>

#include "tests/engine/engine_rig.h"

namespace tandem::testing {

GoldenData::GoldenData(const std::string& variant) {
  auto file = engine::MappedFile::Open(GoldenDir(variant) + "/golden.safetensors");
  if (file.ok()) {
    file_ = *std::move(file);
    if (engine::ReadSafetensors(*file_, tensors_).ok()) return;
  }
  std::cerr << "golden data of " << variant << " can not be read" << std::endl;
  std::abort();
}

std::vector<float> GoldenData::Floats(const std::string& name) const {
  const engine::Tensor& tensor = tensors_.at(name);
  std::vector<float> values(tensor.bytes / sizeof(float));
  std::memcpy(values.data(), tensor.data, tensor.bytes);
  return values;
}

std::vector<int32_t> GoldenData::Ints(const std::string& name) const {
  const engine::Tensor& tensor = tensors_.at(name);
  const size_t width = tensor.dtype == "I64" ? 8 : 4;
  std::vector<int32_t> values;
  for (size_t at = 0; at < tensor.bytes; at += width) {
    int64_t value = 0;  // little-endian; ids and positions are not negative
    std::memcpy(&value, tensor.data + at, width);
    values.push_back(static_cast<int32_t>(value));
  }
  return values;
}

std::vector<int64_t> GoldenData::Shape(const std::string& name) const {
  return tensors_.at(name).shape;
}

double MaxAbsDiff(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double diff = std::abs(double{a[i]} - double{b[i]});
    if (std::isnan(diff)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, diff);
  }
  return worst;
}

}  // namespace tandem::testing
