#include "engine/dummy_weights.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

namespace tandem::engine {
namespace {

using kernels::Bf16;

uint64_t Mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t HashName(const std::string& name, uint64_t seed) {
  uint64_t hash = Mix(seed);
  for (const char c : name) hash = Mix(hash ^ static_cast<unsigned char>(c));
  return hash;
}

// `count` values uniform in +-amplitude, from element `first` of the tensor with this key on.
void FillUniform(uint64_t key, size_t first, size_t count, float amplitude, Bf16* values) {
  const uint32_t low = static_cast<uint32_t>(key);
  const uint32_t high = static_cast<uint32_t>(key >> 32);
  for (size_t i = 0; i < count; ++i) {  // 32-bit integer mixing, which compilers vectorise
    const uint64_t element = first + i;
    uint32_t x = static_cast<uint32_t>(element) * 0x9e3779b1u + low +
                 static_cast<uint32_t>(element >> 32) * 0x85ebca77u;
    x = (x ^ (x >> 15)) * 0x2c1b3c6du;
    x = (x ^ (x >> 12) ^ high) * 0x297a2d39u;
    x ^= x >> 15;
    const float value = static_cast<float>(static_cast<int32_t>(x)) * (amplitude / 2147483648.0f);
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    values[i] = {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
  }
}

}  // namespace

void FillDummyValues(const std::string& name, uint64_t seed, size_t first, size_t count, int inputs,
                     const kernels::Ops& ops, Bf16* values) {
  struct Context {
    uint64_t key;
    size_t first;
    size_t count;
    float amplitude;
    Bf16* values;
  } context{HashName(name, seed), first, count, std::sqrt(3.0f / static_cast<float>(inputs)),
            values};
  constexpr size_t kPiece = 64 << 10;
  ops.for_each(
      ops.backend, static_cast<int>((count + kPiece - 1) / kPiece),
      [](void* opaque, int piece) {
        const Context& c = *static_cast<Context*>(opaque);
        const size_t begin = piece * kPiece;
        const size_t end = std::min(c.count, begin + kPiece);
        FillUniform(c.key, c.first + begin, end - begin, c.amplitude, c.values + begin);
      },
      &context);
}

TensorSource DummySource(uint64_t seed, const kernels::Ops& ops) {
  TensorSource source;
  const auto buffers = std::make_shared<std::array<std::vector<Bf16>, 2>>();
  source.rows = [seed, &ops, buffers](const std::string& name, int64_t row_begin, int64_t rows,
                                      int64_t cols, int buffer) {
    std::vector<Bf16>& out = (*buffers)[buffer];
    if (out.size() < static_cast<size_t>(rows * cols)) out.resize(rows * cols);
    // Unit variance in, about unit variance out; the embedding is scaled by sqrt(H) instead.
    FillDummyValues(name, seed, row_begin * cols, rows * cols, static_cast<int>(cols), ops,
                    out.data());
    return reinterpret_cast<const std::byte*>(out.data());
  };
  source.vector = [](const WeightItem& item, float* values) {
    std::fill_n(values, item.shape[0], 1.0f);
    return absl::OkStatus();
  };
  source.token_ids = [](const WeightItem& item, int32_t* ids) {
    std::iota(ids, ids + item.shape[0], 0);
    return absl::OkStatus();
  };
  return source;
}

}  // namespace tandem::engine
