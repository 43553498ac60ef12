// When the requests of an open loop are sent: by the clock, however fast the answers come.
#pragma once

#include <cstdint>

#include "bench/random.h"

namespace tandem::bench {

struct ArrivalSpec {
  enum class Pattern {
    kPoisson,   // independent of each other: exponential gaps
    kConstant,  // evenly spaced
    kBurst,     // `burst_size` at the same moment, bursts evenly spaced
  };
  Pattern pattern = Pattern::kPoisson;
  double rate = 1.0;  // requests per second on average, in every pattern
  int burst_size = 1;
};

// The arrivals one after the other; a function of the specification and the seed.
class Arrivals {
 public:
  Arrivals(const ArrivalSpec& spec, uint64_t seed);

  // Microseconds from the start of the run; does not fall. The first of an even pattern is 0.
  int64_t Next();

 private:
  const ArrivalSpec spec_;
  Random random_;
  int64_t count_ = 0;
  double time_s_ = 0.0;  // of the last one, kPoisson
};

}  // namespace tandem::bench
