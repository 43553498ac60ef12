#include "bench/arrivals.h"

namespace tandem::bench {
namespace {

constexpr uint64_t kArrivalStream = 0x61727276;  // apart from the streams of the requests

}  // namespace

Arrivals::Arrivals(const ArrivalSpec& spec, uint64_t seed)
    : spec_(spec), random_(seed, kArrivalStream) {}

int64_t Arrivals::Next() {
  const int64_t index = count_++;
  double time_s = 0.0;
  switch (spec_.pattern) {
    case ArrivalSpec::Pattern::kPoisson:
      time_s = time_s_ += random_.Exponential() / spec_.rate;
      break;
    case ArrivalSpec::Pattern::kConstant:
      time_s = static_cast<double>(index) / spec_.rate;
      break;
    case ArrivalSpec::Pattern::kBurst:
      time_s = static_cast<double>(index / spec_.burst_size * spec_.burst_size) / spec_.rate;
      break;
  }
  return static_cast<int64_t>(time_s * 1e6);
}

}  // namespace tandem::bench
