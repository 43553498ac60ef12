// Rows that encoders are tested with: those with published bytes, those at a decision's edge, and
// random ones of many kinds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "kernels/kv_row.h"
#include "kernels/reference/kv_row_ref.h"
#include "tests/kernels/kv_rows.h"

namespace tandem::kernels {

// CRC-32, reflected polynomial 0xEDB88320.
inline uint32_t Crc32(std::span<const std::byte> bytes) {
  uint32_t crc = 0xffffffffu;
  for (const std::byte byte : bytes) {
    crc ^= static_cast<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

// The input of turboquant 2.6.
inline std::vector<float> GoldenRow(int dim) {
  std::vector<float> x(dim);
  for (int i = 0; i < dim; ++i) x[i] = static_cast<float>((37 * i) % 101 - 50) / 16.0f;
  return x;
}

inline std::vector<float> UnitVector(int dim, int i) {
  std::vector<float> x(dim);
  x[i] = 1.0f;
  return x;
}

inline const KvCodebook& CodebookOf(KvFormat format) {
  return format == KvFormat::kTurbo4   ? kTurbo4Codebook
         : format == KvFormat::kTurbo3 ? kTurbo3Codebook
                                       : kTurbo2Codebook;
}

// `background` with its rotated coordinate i replaced: `u` in units of norm / gain.
inline std::vector<float> RowWithCoordinate(const std::vector<float>& background, int i, double u,
                                            const KvCodebook& book) {
  const double dim = static_cast<double>(background.size()), level = u / double{book.gain};
  const double rest = Dot(background, background) - double{background[i]} * background[i];
  std::vector<float> x = background;
  x[i] = static_cast<float>(level * std::sqrt(rest / (dim - level * level)));
  UnrotateReference(x.data(), static_cast<int>(x.size()), x.data());
  return x;
}

// Its rotated coordinate dim/2 is -0.
inline std::vector<float> RowWithMinusZero(int dim) {
  // -0 throughout the first half once signs are flipped, so that its sum is -0, and a second half
  // whose sum is 0: their difference is -0.
  std::vector<float> x(dim);
  const auto sign = [](int i) {
    return (kKvSignWords[i / 64] >> (i % 64) & 1) != 0 ? -1.0f : 1.0f;
  };
  for (int i = 0; i < dim / 2; ++i) x[i] = -0.0f * sign(i);
  x[dim - 2] = sign(dim - 2);
  x[dim - 1] = -sign(dim - 1);
  return x;
}

// Rows of many kinds, the same for equal seeds.
class RowSource {
 public:
  explicit RowSource(uint32_t seed) : random_(seed) {}

  std::vector<float> Next(int dim) {
    std::vector<float> x(dim);
    const int kind = static_cast<int>(random_() % 8);
    for (float& value : x) value = normal_(random_);
    const auto scale = [&](float by) {
      for (float& value : x) value *= by;
    };
    switch (kind) {
      case 0:
      case 1:
        break;
      case 2:  // heavy tails
        for (float& value : x) value /= std::fabs(normal_(random_)) + 1e-4f;
        break;
      case 3:  // outliers
        for (int i = 0; i < 4; ++i) x[random_() % dim] *= 1000.0f;
        break;
      case 4:  // subnormal, and to where a row becomes zero
        scale(std::ldexp(1.0f, -40 - static_cast<int>(random_() % 108)));
        break;
      case 5:  // huge, up to where S overflows and beyond
        scale(std::ldexp(1.0f, static_cast<int>(random_() % 126)));
        break;
      case 6:  // small whole numbers: many equal coordinates, zeros among them
        for (float& value : x) value = std::round(value);
        break;
      case 7:  // one coordinate, sometimes none: every rotated one has the same magnitude
        std::fill(x.begin(), x.end(), 0.0f);
        x[random_() % dim] = std::round(normal_(random_));
        break;
    }
    return x;
  }

 private:
  std::mt19937 random_;
  std::normal_distribution<float> normal_;
};

}  // namespace tandem::kernels
