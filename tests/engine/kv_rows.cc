#include "tests/engine/kv_rows.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string_view>
#include <utility>

#include "kernels/kv_row.h"
#include "kernels/reference/kv_row_ref.h"

namespace tandem::testing {
namespace {

using kernels::KvFormat;
using kernels::KvRow;
using kernels::KvView;

void AddRuns(const KvRow& row, KvFormat format, int head_dim,
             std::vector<std::span<std::byte>>& runs) {
  const size_t bytes = kernels::KvRowBytes(format, head_dim);
  const size_t high = row.high_bits != nullptr ? static_cast<size_t>(head_dim) / 8 : 0;
  runs.push_back({row.codes, bytes - high});
  if (high > 0) runs.push_back({row.high_bits, high});
  if (row.scale != nullptr) {
    runs.push_back({reinterpret_cast<std::byte*>(row.scale), sizeof(kernels::F16)});
  }
}

std::vector<float> Values(KvFormat format, int head_dim, const KvRow& row) {
  std::vector<float> values(head_dim);
  kernels::DecodeRowReference(format, head_dim, row, values.data());
  if (KvHasScale(format)) {
    kernels::UnrotateReference(values.data(), head_dim, values.data());
  }
  return values;
}

// What is left of `x` when it was stored and read again.
void Store(float* x, KvFormat format, int head_dim) {
  std::vector<std::byte> bytes(kernels::KvRowBytes(format, head_dim));
  kernels::F16 scale;
  KvRow row = {.codes = bytes.data()};
  if (format == KvFormat::kTurbo3) row.high_bits = bytes.data() + head_dim / 4;
  if (KvHasScale(format)) row.scale = &scale;
  kernels::EncodeRowReference(x, format, head_dim, row);
  const std::vector<float> values = Values(format, head_dim, row);
  std::copy(values.begin(), values.end(), x);
}

struct Simulation {
  kernels::Ops inner;
  std::map<const std::byte*, kvcache::KvPair> formats;
};
Simulation* g_simulation = nullptr;

void SimulatedQkvPost(void* backend, const kernels::QkvPostArgs& args) {
  g_simulation->inner.qkv_post(backend, args);
  if (args.num_kv_heads == 0) return;
  const kvcache::KvPair pair = g_simulation->formats.at(args.kv.base);
  const int block_tokens = 1 << args.kv.log2_block_tokens;
  for (int t = 0; t < args.rows; ++t) {
    const int block = args.cells[t] / block_tokens, cell = args.cells[t] % block_tokens;
    for (int head = 0; head < args.num_kv_heads; ++head) {
      const KvRow k = kernels::KRowAt(args.kv, block, head, cell, args.head_dim);
      const KvRow v = kernels::VRowAt(args.kv, block, head, cell, args.head_dim);
      Store(reinterpret_cast<float*>(k.codes), pair.k, args.head_dim);
      Store(reinterpret_cast<float*>(v.codes), pair.v, args.head_dim);
    }
  }
}

void SimulatedAttention(void* backend, const kernels::AttentionArgs& args) {
  const kvcache::KvPair pair = g_simulation->formats.at(args.kv.base);
  int rows = 0;
  for (const kernels::AttentionSegment& segment : args.segments) {
    rows = std::max(rows, segment.row_begin + segment.num_rows);
  }
  const size_t width = static_cast<size_t>(args.num_q_heads) * args.head_dim;
  std::vector<float> q(rows * width);
  for (int t = 0; t < rows; ++t) {
    for (int head = 0; head < args.num_q_heads; ++head) {
      const float* from = args.q + t * args.q_stride + head * args.head_dim;
      const std::vector<float> rounded =
          RoundedQuery({from, static_cast<size_t>(args.head_dim)}, pair.k);
      std::copy(rounded.begin(), rounded.end(), &q[t * width + head * args.head_dim]);
    }
  }
  kernels::AttentionArgs simulated = args;
  simulated.q = q.data();
  simulated.q_stride = static_cast<int64_t>(width);
  g_simulation->inner.attention(backend, simulated);
}

}  // namespace

std::vector<std::span<std::byte>> KvRowRuns(const KvView& view, int head_dim, int32_t block,
                                            int head, int cell) {
  std::vector<std::span<std::byte>> runs;
  AddRuns(kernels::KRowAt(view, block, head, cell, head_dim), view.k_format, head_dim, runs);
  AddRuns(kernels::VRowAt(view, block, head, cell, head_dim), view.v_format, head_dim, runs);
  return runs;
}

std::vector<float> StoredRow(const KvView& view, int head_dim, int32_t block, int head, int cell,
                             bool value) {
  return value
             ? Values(view.v_format, head_dim, kernels::VRowAt(view, block, head, cell, head_dim))
             : Values(view.k_format, head_dim, kernels::KRowAt(view, block, head, cell, head_dim));
}

std::vector<float> RoundedQuery(std::span<const float> q, KvFormat k_format) {
  std::vector<float> rounded(q.begin(), q.end());
  if (!KvHasScale(k_format)) return rounded;
  const int dim = static_cast<int>(q.size());
  kernels::RotateReference(rounded.data(), dim, rounded.data());
  const float inverse_sqrt = 1.0f / std::sqrt(static_cast<float>(dim));
  float max = 0;
  for (float& value : rounded) {
    value *= inverse_sqrt;
    max = std::max(max, std::abs(value));
  }
  if (max == 0) return rounded;
  for (float& value : rounded) {
    value = std::nearbyint(value * (127.0f / max)) * (max / 127.0f);
  }
  kernels::UnrotateReference(rounded.data(), dim, rounded.data());
  return rounded;
}

kernels::Ops Simulated(const kernels::Ops& inner,
                       std::vector<std::pair<const std::byte*, kvcache::KvPair>> formats) {
  static Simulation simulation;
  simulation = {inner, {formats.begin(), formats.end()}};
  g_simulation = &simulation;
  kernels::Ops ops = inner;
  ops.qkv_post = SimulatedQkvPost;
  ops.attention = SimulatedAttention;
  return ops;
}

kvcache::KvFormats FormatsOf(const std::string& text) {
  kvcache::KvFormats formats;
  const std::string pairs = text.substr(0, text.find(' '));
  const size_t bar = pairs.find('|');
  const auto sliding = kvcache::ParseKvPair(std::string_view(pairs).substr(0, bar));
  const auto full = bar == std::string::npos
                        ? sliding
                        : kvcache::ParseKvPair(std::string_view(pairs).substr(bar + 1));
  const bool understood = pairs.size() == text.size() ||
                          std::sscanf(text.c_str() + pairs.size(), " protect %d+%d",
                                      &formats.protect_first, &formats.protect_last) == 2;
  if (!understood || !sliding.ok() || !full.ok()) {
    std::cerr << "test: no formats: " << text << std::endl;
    std::abort();
  }
  formats.groups = {*sliding, *full};
  return formats;
}

void SetNumbers(RigConfig& config, const std::string& text) {
  const bool int8 = text.starts_with("int8 "), int4 = text.starts_with("int4 ");
  config.weights = int8   ? kernels::WeightFormat::kInt8
                   : int4 ? kernels::WeightFormat::kInt4
                          : kernels::WeightFormat::kBf16;
  const std::string numbers = text.substr(int8 || int4 ? 5 : 0);
  config.f32 = numbers == "f32";
  config.kv.reset();
  if (numbers != "f32" && numbers != "bf16") config.kv = FormatsOf(numbers);
}

std::vector<std::tuple<const char*, kernels::CpuIsa, const char*>> FormatSpread(
    const std::vector<kernels::CpuIsa>& isas) {
  constexpr std::pair<const char*, const char*> kSpread[] = {
      {"e4b-like", "f16"},
      {"12b-like", "q8"},
      {"e2b-like", "turbo4"},
      {"26b-like", "turbo3"},
      {"31b-like", "turbo2"},
      {"e2b-like", "q8/turbo4"},
      {"31b-like", "turbo4/turbo3"},
      {"e4b-like", "bf16/turbo4"},
      {"12b-like", "turbo2/f16"},
      {"26b-like", "turbo4|bf16/q8"},
      {"e4b-like", "turbo4 protect 2+2"},
      {"e2b-like", "turbo3/turbo2 protect 0+2"},
  };
  std::vector<std::tuple<const char*, kernels::CpuIsa, const char*>> spread;
  for (const kernels::CpuIsa isa : isas) {
    for (const auto& [variant, formats] : kSpread) spread.push_back({variant, isa, formats});
  }
  return spread;
}

std::string FormatsTestName(std::string text) {
  for (char& c : text) {
    if (c == '/' || c == '|' || c == ' ' || c == '+') c = '_';
  }
  return text;
}

}  // namespace tandem::testing
