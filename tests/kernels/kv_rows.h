// Single KV rows for tests: an encoder per level, a row's bytes on their own.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "kernels/cpu/qkv_post_kernels.h"
#include "kernels/kv_row.h"
#include "kernels/reference/kv_row_ref.h"
#include "tests/kernels/test_backend.h"

namespace tandem::kernels {

constexpr KvFormat kAllFormats[] = {KvFormat::kF32,   KvFormat::kBf16,   KvFormat::kF16,
                                    KvFormat::kQ8,    KvFormat::kTurbo4, KvFormat::kTurbo3,
                                    KvFormat::kTurbo2};
constexpr KvFormat kScaledFormats[] = {KvFormat::kQ8, KvFormat::kTurbo4, KvFormat::kTurbo3,
                                       KvFormat::kTurbo2};
constexpr KvFormat kTurboFormats[] = {KvFormat::kTurbo4, KvFormat::kTurbo3, KvFormat::kTurbo2};
constexpr int kScaledDims[] = {64, 128, 256, 512};

inline std::string NameOf(KvFormat format) {
  constexpr const char* kNames[] = {"f32", "bf16", "f16", "q8", "turbo4", "turbo3", "turbo2"};
  return kNames[static_cast<int>(format)];
}

using RowEncoder = KvRowStatus (*)(const float* x, KvFormat format, int dim, KvRow row);

inline RowEncoder EncoderAt(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kRef:
      return EncodeRowReference;
    case CpuIsa::kAvx2:
      return kQkvPostKernelsAvx2.encode;
    default:
      return kQkvPostKernelsAvx512.encode;
  }
}

// One row in memory of its own, every byte 0xff (a NaN scale) until written.
class StoredRow {
 public:
  StoredRow(KvFormat format, int dim)
      : format_(format), dim_(dim), bytes_(KvRowBytes(format, dim), std::byte{0xff}) {}

  KvRow row() {
    KvRow row = {.codes = bytes_.data()};
    if (format_ == KvFormat::kTurbo3) row.high_bits = bytes_.data() + dim_ / 4;
    if (KvHasScale(format_)) row.scale = &scale_;
    return row;
  }
  KvRowStatus Encode(RowEncoder encode, const std::vector<float>& x) {
    return encode(x.data(), format_, dim_, row());
  }
  std::vector<int> Codes() {
    std::vector<int> codes(dim_);
    DecodeCodesReference(format_, dim_, row(), codes.data());
    return codes;
  }
  // In the row's own space.
  std::vector<float> Values() {
    std::vector<float> values(dim_);
    DecodeRowReference(format_, dim_, row(), values.data());
    return values;
  }
  // In the model's space.
  std::vector<float> Restored() {
    std::vector<float> values = Values();
    if (KvHasScale(format_)) UnrotateReference(values.data(), dim_, values.data());
    return values;
  }

  const std::vector<std::byte>& bytes() const { return bytes_; }
  uint16_t scale_bits() const { return scale_.bits; }
  bool IsZeroBytes() const {
    return bytes_ == std::vector<std::byte>(bytes_.size()) && scale_.bits == 0;
  }
  bool operator==(const StoredRow& other) const {
    return bytes_ == other.bytes_ && scale_.bits == other.scale_.bits;
  }

 private:
  KvFormat format_;
  int dim_;
  std::vector<std::byte> bytes_;
  F16 scale_ = {0xffff};
};

inline double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += double{a[i]} * b[i];
  return sum;
}
inline double Norm(const std::vector<float>& x) { return std::sqrt(Dot(x, x)); }

}  // namespace tandem::kernels
