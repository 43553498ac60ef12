// Int8 and int4 matrices of random codes and scales: as numbers, and packed for the CUDA kernels.
#pragma once

#include <cmath>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/w_codes_pack.h"
#include "kernels/weight_codes.h"
#include "tests/emu/device_vector.h"

namespace tandem::kernels {

constexpr WeightFormat kCodeFormats[] = {WeightFormat::kInt8, WeightFormat::kInt4};

inline std::string FormatName(WeightFormat format) {
  return format == WeightFormat::kInt8 ? "Int8" : "Int4";
}

struct CodeMatrix {
  WeightFormat format;
  int out;
  int in;
  std::vector<int8_t> codes;  // [out, 32 * WeightGroups(in)]
  std::vector<F16> scales;    // [out, WeightGroups(in)]
  DeviceVector<std::byte> packed;
  DeviceVector<F16> packed_scales;

  int groups() const { return WeightGroups(in); }
  int8_t& Code(int n, int k) { return codes[static_cast<size_t>(n) * groups() * 32 + k]; }
  float At(int n, int k) const {
    const size_t row = static_cast<size_t>(n) * groups();
    return DecodeWeight(scales[row + k / 32], codes[row * 32 + k]);
  }
  // Bytes that no row fills are 0xff, which makes a NaN of a scale.
  void Pack() {
    packed.assign(PackedCodeBytes(format, out, in), std::byte{0xff});
    packed_scales.assign(PackedCodeScales(out, in), F16{0xffff});
    for (int n = 0; n < out; ++n) {
      const size_t row = static_cast<size_t>(n) * groups();
      PackCodeRow(format, n, in, &codes[row * 32], &scales[row], packed.data(),
                  packed_scales.data());
    }
  }
};

// Codes of the whole range, scales of both signs; values of variance about 1/in.
inline CodeMatrix RandomCodes(WeightFormat format, int out, int in, uint32_t seed) {
  CodeMatrix m = {format, out, in, {}, {}, {}, {}};
  std::mt19937 random(seed);
  const int least = format == WeightFormat::kInt8 ? -127 : -8;
  const int most = format == WeightFormat::kInt8 ? 127 : 7;
  std::uniform_int_distribution<int> code(least, most);
  std::normal_distribution<float> scale(0.0f, 2.0f / most / std::sqrt(static_cast<float>(in)));
  m.codes.resize(static_cast<size_t>(out) * m.groups() * 32);
  for (int n = 0; n < out; ++n) {
    for (int k = 0; k < in; ++k) m.Code(n, k) = static_cast<int8_t>(code(random));
    for (int q = 0; q < m.groups(); ++q) m.scales.push_back(ToF16(scale(random)));
  }
  m.Pack();
  return m;
}

// [rows, out] of x [rows, stride], sums in f64.
inline std::vector<float> CodesReference(const CodeMatrix& m, std::span<const float> x, int rows,
                                         int stride) {
  std::vector<float> y;
  for (int t = 0; t < rows; ++t) {
    for (int n = 0; n < m.out; ++n) {
      double sum = 0.0;
      for (int k = 0; k < m.in; ++k) sum += double{m.At(n, k)} * x[size_t(t) * stride + k];
      y.push_back(static_cast<float>(sum));
    }
  }
  return y;
}

}  // namespace tandem::kernels
