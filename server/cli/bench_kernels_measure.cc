#include "server/cli/bench_kernels_measure.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "bench/random.h"
#include "kernels/weight_codes.h"
#include "server/cli/console.h"
#include "server/cli/format.h"

namespace tandem::server {
namespace {

using kernels::Bf16;
using kernels::F16;
using kernels::WeightFormat;

constexpr int kMostCopies = 256;
constexpr int kMostPasses = 1000;
constexpr int kWarmUps = 2;  // a device records what it sees for the second time
constexpr int kCopies = 3;   // the best of them counts
constexpr int kCopyPieces = 16;
constexpr uint64_t kWrittenValues = 1 << 20;  // random values that are made at a time

std::vector<float> RandomFloats(uint64_t count, uint64_t stream) {
  constexpr double kWidth = 3.4641016;  // sqrt(12)
  bench::Random random(/*seed=*/1, stream);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>((random.Unit() - 0.5) * kWidth);
  return values;
}

}  // namespace

absl::StatusOr<KernelBench> KernelBench::Create(const kernels::Ops& ops,
                                                const KernelBenchPlan& plan,
                                                std::function<void(const KernelResult&)> done) {
  KernelBench bench(ops, plan, std::move(done));
  for (kernels::Memory* memory : {&bench.copy_from_, &bench.copy_to_}) {
    absl::StatusOr<kernels::Memory> allocated = ops.memory.Allocate(plan.copy_bytes);
    if (!allocated.ok()) return allocated.status();
    *memory = *std::move(allocated);
  }
  const std::vector<float> values =
      RandomFloats(std::min(plan.copy_bytes / sizeof(float), kWrittenValues), /*stream=*/0);
  const uint64_t chunk = values.size() * sizeof(float);
  for (uint64_t at = 0; at < plan.copy_bytes; at += chunk) {
    ops.write(ops.backend, bench.copy_from_.data() + at, values.data(),
              std::min(chunk, plan.copy_bytes - at));
  }
  return bench;
}

// All that was asked of the backend is done when it returns.
void KernelBench::Wait() const { ops_->fetch(ops_->backend, copy_to_.data(), sizeof(float)); }

double KernelBench::MeasureCopy() const {
  struct Piece {
    std::byte* to;
    const std::byte* from;
    uint64_t bytes;
  };
  double best = 0.0;
  for (int i = 0; i <= kCopies; ++i) {  // the first touches the memory
    const double begin = MonotonicSeconds();
    if (ops_->host_memory) {  // a thread alone may not be able to ask for all of it
      Piece first = {copy_to_.data(), copy_from_.data(), plan_.copy_bytes / kCopyPieces};
      ops_->for_each(
          ops_->backend, kCopyPieces,
          [](void* context, int piece) {
            const Piece& p = *static_cast<const Piece*>(context);
            std::memcpy(p.to + piece * p.bytes, p.from + piece * p.bytes, p.bytes);
          },
          &first);
    } else {
      ops_->copy(ops_->backend, copy_to_.data(), copy_from_.data(), plan_.copy_bytes);
    }
    Wait();
    const double seconds = MonotonicSeconds() - begin;
    if (i > 0) best = std::max(best, 2.0 * static_cast<double>(plan_.copy_bytes) / seconds);
  }
  return best;
}

void KernelBench::StartFamily(std::string_view family) {
  family_ = family;
  copy_bytes_per_s_ = MeasureCopy();
}

int KernelBench::Copies(uint64_t bytes) const {
  const uint64_t wanted = std::max(plan_.least_rotated_bytes, 2 * plan_.cache_bytes);
  return static_cast<int>(
      std::clamp<uint64_t>((wanted + bytes - 1) / bytes, 1, uint64_t{kMostCopies}));
}

bool KernelBench::Allow(uint64_t bytes) {
  if (failed()) return false;
  if (taken_bytes_ + bytes > plan_.most_bytes) {
    failure_ = absl::ResourceExhaustedError(absl::StrFormat(
        "its arrays take more than the %s that may be used; free some memory or choose a smaller "
        "shape",
        BytesText(static_cast<double>(plan_.most_bytes))));
    return false;
  }
  taken_bytes_ += bytes;
  return true;
}

std::byte* KernelBench::TakeBytes(uint64_t bytes, const kernels::MemorySource& source) {
  if (!Allow(bytes)) return nullptr;
  absl::StatusOr<kernels::Memory> memory = source.Allocate(bytes);
  if (!memory.ok()) {
    failure_ = memory.status();
    return nullptr;
  }
  taken_.push_back(*std::move(memory));
  return taken_.back().data();
}

float* KernelBench::TakeFloats(uint64_t count) {
  float* const values = Take<float>(count);
  if (values == nullptr) return nullptr;
  const std::vector<float> random = RandomFloats(std::min(count, kWrittenValues), ++next_stream_);
  for (uint64_t at = 0; at < count; at += random.size()) {
    const uint64_t size = std::min<uint64_t>(random.size(), count - at);
    ops_->write(ops_->backend, values + at, random.data(), size * sizeof(float));
  }
  return values;
}

const void* KernelBench::TakeOperands(uint64_t count) {
  const float* const values = TakeFloats(count);
  std::byte* const space = Take<std::byte>(count * ops_->operand_bytes);
  if (failed()) return nullptr;
  return ops_->as_operands(ops_->backend, values, space, static_cast<int64_t>(count));
}

std::vector<kernels::WeightView> KernelBench::TakeMatrices(const ProductShape& shape, int count) {
  const auto [format, out, in] = shape;
  const bool plain = format == WeightFormat::kBf16;
  const size_t bytes = plain ? kernels::PackedElements(out, in) * sizeof(Bf16)
                             : kernels::PackedCodeBytes(format, out, in);
  const size_t scales = plain ? 0 : kernels::PackedCodeScales(out, in);
  std::byte* const first = Take<std::byte>(count * bytes);
  F16* const first_scales = Take<F16>(count * scales);
  std::vector<kernels::WeightView> views;
  if (failed()) return views;

  // The first is packed, some rows again and again; the others are its copies.
  const int rows_at_a_time =
      std::clamp(static_cast<int>(kWrittenValues / in) / 16 * 16, 16, (out + 15) / 16 * 16);
  std::vector<Bf16> rows;
  for (const float value : RandomFloats(uint64_t(rows_at_a_time) * in, ++next_stream_)) {
    rows.push_back(kernels::ToBf16(value));
  }
  const auto* const row_bytes = reinterpret_cast<const std::byte*>(rows.data());
  for (int row = 0; row < out; row += rows_at_a_time) {
    const int size = std::min(rows_at_a_time, out - row);
    if (plain) {
      ops_->pack_rows(ops_->backend, row_bytes, size, in, row, reinterpret_cast<Bf16*>(first));
    } else {
      ops_->pack_code_rows(ops_->backend, row_bytes, size, in, row,
                           {.format = format, .codes = first, .scales = first_scales});
    }
  }
  for (int i = 0; i < count; ++i) {
    if (i > 0) ops_->copy(ops_->backend, first + i * bytes, first, bytes);
    if (i > 0 && !plain) {
      ops_->copy(ops_->backend, first_scales + i * scales, first_scales, scales * sizeof(F16));
    }
    kernels::WeightView view = {.out = out, .in = in, .format = format};
    if (plain) {
      view.data = reinterpret_cast<const Bf16*>(first + i * bytes);
    } else {
      view.codes = first + i * bytes;
      view.scales = first_scales + i * scales;
    }
    views.push_back(view);
  }
  return views;
}

absl::Status KernelBench::Run(const KernelCase& test, const std::function<void(int call)>& give) {
  if (failed()) {
    LeaveOut(absl::StrFormat("%s, %d rows", test.name, test.rows), std::string(failure_.message()));
    return absl::OkStatus();
  }
  const uint64_t program = kernels::NewProgram();
  const auto pass = [&] {
    // Rows of prompts are not recorded in a step either.
    if (!test.prompt && !ops_->begin_run(ops_->backend, program)) return;
    for (int call = 0; call < test.calls; ++call) give(call);
    if (!test.prompt) ops_->end_run(ops_->backend);
  };
  const auto seconds_of = [&](int passes) {
    const double begin = MonotonicSeconds();
    for (int i = 0; i < passes; ++i) pass();
    Wait();
    return (MonotonicSeconds() - begin) / passes;
  };
  for (int i = 0; i < kWarmUps; ++i) seconds_of(1);
  const double one = std::max(seconds_of(1), 1e-9);
  const int passes =
      static_cast<int>(std::clamp(std::ceil(plan_.least_run_s / one), 1.0, double{kMostPasses}));
  KernelResult result = {.test = test,
                         .family = family_,
                         .cached = test.bytes * test.calls <= plan_.cache_bytes,
                         .copy_bytes_per_s = copy_bytes_per_s_};
  for (int i = 0; i < plan_.repetitions; ++i) {
    result.seconds.push_back(seconds_of(passes) / test.calls);
  }
  if (absl::Status s = ops_->status(ops_->backend); !s.ok()) return s;
  results_.push_back(std::move(result));
  done_(results_.back());
  return absl::OkStatus();
}

void KernelBench::Reset() {
  Wait();
  taken_.clear();
  taken_bytes_ = 0;
  failure_ = absl::OkStatus();
}

void KernelBench::LeaveOut(std::string what, std::string why) {
  left_out_.push_back({std::move(what), std::move(why)});
}

}  // namespace tandem::server
