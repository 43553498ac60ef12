// Row-major bf16 matrices into codes in the layout of code_layout.h, on the team.
#include <algorithm>
#include <atomic>
#include <vector>

#include "kernels/cpu/backend_impl.h"
#include "kernels/cpu/code_layout.h"
#include "kernels/weight_codes.h"

namespace tandem::kernels {
namespace {

// Weights of one piece of work, about 100 us.
constexpr int64_t kPieceWeights = 32768;

// Rows [0, rows) of source(row), each to row place(row) of `target`.
template <typename Source, typename Place>
bool PackEach(CpuBackend& backend, int rows, int in, const CodeTarget& target, Source source,
              Place place) {
  std::atomic<bool> fits{true};
  const int64_t piece = std::max<int64_t>(1, kPieceWeights / std::max(1, in));
  backend.team.ForEach(rows, piece, [&](int, int64_t begin, int64_t end) {
    std::vector<int8_t> codes(size_t{kWeightGroup} * WeightGroups(in));
    std::vector<F16> scales(WeightGroups(in));
    for (int64_t row = begin; row < end; ++row) {
      if (!EncodeWeightRow(target.format, source(row), in, codes.data(), scales.data())) {
        fits = false;
        return;
      }
      PutCodeRow(target.format, place(static_cast<int>(row)), in, codes.data(), scales.data(),
                 target.codes, target.scales);
    }
  });
  return fits;
}

}  // namespace

void PutCodeRow(WeightFormat format, int n, int in, const int8_t* codes, const F16* scales,
                std::byte* packed, F16* packed_scales) {
  const size_t group_bytes = CodeGroupBytes(format);
  const int lane = n % kTileOutputs;
  for (int q = 0; q < WeightGroups(in); ++q, codes += kWeightGroup) {
    const size_t at = CodeGroupIndex(n, in, q);
    packed_scales[at * kTileOutputs + lane] = scales[q];
    std::byte* const words = packed + at * group_bytes + lane * 4;
    for (int b = 0; b < 4; ++b) {
      if (format == WeightFormat::kInt8) {
        for (int j = 0; j < 8; ++j) words[j * 64 + b] = static_cast<std::byte>(codes[4 * j + b]);
      } else {
        for (int j = 0; j < 4; ++j) {
          const int low = codes[8 * j + b] + 8, high = codes[8 * j + 4 + b] + 8;
          words[j * 64 + b] = static_cast<std::byte>(low | high << 4);
        }
      }
    }
  }
}

bool PackCodeRows(CpuBackend& backend, const std::byte* rows, int out, int in, int row_begin,
                  const CodeTarget& target) {
  const size_t row_bytes = sizeof(Bf16) * in;
  return PackEach(
      backend, out, in, target, [&](int64_t row) { return rows + row * row_bytes; },
      [&](int row) { return row_begin + row; });
}

bool PackCodeGateUp(CpuBackend& backend, const std::byte* gate, const std::byte* up, int width,
                    int in, const CodeTarget& target) {
  const size_t row_bytes = sizeof(Bf16) * in;
  const auto interleaved = [](int i) {
    return i / kTileOutputs * 2 * kTileOutputs + i % kTileOutputs;
  };
  const auto pack = [&](const std::byte* rows, int first) {
    return PackEach(
        backend, width, in, target, [&](int64_t row) { return rows + row * row_bytes; },
        [&](int row) { return first + interleaved(row); });
  };
  return pack(gate, 0) && pack(up, kTileOutputs);
}

}  // namespace tandem::kernels
