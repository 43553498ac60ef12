#include "scheduler/cost_model.h"

#include <algorithm>
#include <cmath>

namespace tandem::scheduler {
namespace {

constexpr double kWeight = 0.25;    // of the newest measurement
constexpr double kMaxChange = 4.0;  // of one measurement against the estimate
constexpr double kLeastUs = 0.5;    // what the clock shows as 0
constexpr int kMinRowsToLearn = 8;  // below, the fixed cost of a step drowns that of its rows
// Points of a curve: the first measurements count as much as each other, later ones a tenth; and
// none, as often as stalls happen, more than half of what was expected.
constexpr int kMaxMeasurements = 10;
constexpr double kMaxPointChange = 0.5;
constexpr int kDenseCounts = 16;     // have a point each
constexpr int kPointsPerOctave = 4;  // above

void Learn(double& estimate, double measured) {
  if (estimate <= 0) {
    estimate = std::max(measured, 0.0);
    return;
  }
  measured = std::clamp(measured, estimate / kMaxChange, estimate * kMaxChange);
  estimate += kWeight * (measured - estimate);
}

// Whose point a count moves.
int BucketOf(int count) {
  if (count <= kDenseCounts) return count;
  const double octaves = std::log2(static_cast<double>(count) / kDenseCounts);
  return kDenseCounts + 1 + static_cast<int>(octaves * kPointsPerOctave);
}

// The points as a monotone curve: where measurements fall, neighbours share their weighted mean.
std::vector<CostCurve::Point> Monotone(const CostCurve& curve) {
  struct Pool {
    double weighted_us = 0;
    int measurements = 0;
    int points = 0;
    double us() const { return weighted_us / measurements; }
  };
  std::vector<Pool> pools;
  for (const CostCurve::Point& point : curve.points) {
    pools.push_back({point.us * point.measurements, point.measurements, 1});
    while (pools.size() > 1 && pools[pools.size() - 2].us() > pools.back().us()) {
      Pool& merged = pools[pools.size() - 2];
      merged.weighted_us += pools.back().weighted_us;
      merged.measurements += pools.back().measurements;
      merged.points += pools.back().points;
      pools.pop_back();
    }
  }
  std::vector<CostCurve::Point> points = curve.points;
  size_t i = 0;
  for (const Pool& pool : pools) {
    for (int n = 0; n < pool.points; ++n) points[i++].us = pool.us();
  }
  return points;
}

// Cost of one more beyond the last point: between it and the last that has half its count, so that
// two neighbours that differ by chance do not decide. No more than what one costs on average.
double LastSlope(const std::vector<CostCurve::Point>& points) {
  const CostCurve::Point& last = points.back();
  for (size_t i = points.size() - 1; i-- > 0;) {
    if (points[i].count > last.count / 2 && i > 0) continue;
    return std::min((last.us - points[i].us) / (last.count - points[i].count),
                    last.us / last.count);
  }
  return 0;
}

// out[i] = cost of first + i, times speed.
void Evaluate(const CostCurve& curve, double speed, int first, std::span<double> out) {
  const std::vector<CostCurve::Point> points = Monotone(curve);
  if (points.empty()) {
    std::fill(out.begin(), out.end(), 0.0);
    return;
  }
  const double last_slope = LastSlope(points);
  size_t next = 0;  // first point at or above the count
  for (size_t i = 0; i < out.size(); ++i) {
    const double count = first + static_cast<double>(i);
    while (next < points.size() && points[next].count < count) ++next;
    double us = 0;
    if (next == points.size()) {
      us = points.back().us + last_slope * (count - points.back().count);
    } else if (next == 0) {
      us = points[0].us;
    } else {
      const CostCurve::Point &below = points[next - 1], &above = points[next];
      us = below.us + (above.us - below.us) * (count - below.count) / (above.count - below.count);
    }
    out[i] = speed * us;
  }
}

// The point that `count` moves; null when it has none yet.
CostCurve::Point* PointOf(CostCurve& curve, int count) {
  const int bucket = BucketOf(count);
  for (CostCurve::Point& point : curve.points) {
    // The mean of counts of one bucket, rounded, lies in it.
    if (BucketOf(static_cast<int>(std::lround(point.count))) == bucket) return &point;
  }
  return nullptr;
}

void AddPoint(CostCurve& curve, int count, double us) {
  const auto above =
      std::find_if(curve.points.begin(), curve.points.end(),
                   [&](const CostCurve::Point& point) { return point.count > count; });
  curve.points.insert(above, {.count = static_cast<double>(count), .us = us, .measurements = 1});
}

// Moves the point of `count` towards `measured` times what the curve says. A point where there was
// none is made from `us`.
void MovePoint(CostCurve& curve, int count, double measured, double us) {
  CostCurve::Point* point = PointOf(curve, count);
  if (point == nullptr) {
    AddPoint(curve, count, us);
    return;
  }
  measured = std::clamp(measured, 1 - kMaxPointChange, 1 + kMaxPointChange);
  point->measurements = std::min(point->measurements + 1, kMaxMeasurements);
  const double weight = 1.0 / point->measurements;
  // Where the point moves along the curve, its height follows.
  const double count_now = point->count + weight * (count - point->count);
  double at[2] = {};
  Evaluate(curve, 1.0, static_cast<int>(std::floor(std::min(count_now, point->count))), at);
  const double slope = at[1] - at[0];
  point->us = (point->us + slope * (count_now - point->count)) * (1 + weight * (measured - 1));
  point->count = count_now;
}

// How many slots still draft in each step of the chain.
std::vector<int> SlotsByDepth(std::span<const int> tokens) {
  std::vector<int> slots;
  for (const int n : tokens) {
    if (n > static_cast<int>(slots.size())) slots.resize(n, 0);
    for (int depth = 0; depth < n; ++depth) ++slots[depth];
  }
  return slots;
}

}  // namespace

void Observe(CostModel& model, int prompt_rows, int decode_rows, int64_t duration_us) {
  const double us = std::max(static_cast<double>(duration_us), kLeastUs);
  if (prompt_rows == 0) {
    if (decode_rows == 0) return;
    const bool other_size = model.last_rows != decode_rows;
    model.last_rows = decode_rows;
    const double expected = DecodeStepUs(model, decode_rows);
    const bool known = PointOf(model.decode, decode_rows) != nullptr;
    if (!known || other_size) {
      MovePoint(model.decode, decode_rows, us / expected, us / model.speed);
    }
    if (known) {
      const double slower = std::clamp(us / expected, 1 / kMaxChange, kMaxChange);
      model.speed *= 1 + kWeight * (slower - 1);
    }
    return;
  }
  if (prompt_rows >= kMinRowsToLearn) {
    Learn(model.prompt_row_us, (us - DecodeStepUs(model, decode_rows)) / prompt_rows);
  }
}

void ObserveDrafting(CostModel& model, std::span<const int> tokens, int64_t draft_us) {
  const std::vector<int> slots = SlotsByDepth(tokens);
  if (slots.empty()) return;
  const double us = std::max(static_cast<double>(draft_us), kLeastUs);
  std::vector<double> step_us(slots.front() + 1);
  DraftStepsUs(model, step_us);
  double expected = 0;
  for (const int n : slots) expected += step_us[n];
  // What was measured against what was expected holds for every number of slots in the chain, also
  // for those that never ran: they stand on the curve so far. Without one, all cost the same.
  const double per_step_us = us / static_cast<double>(slots.size());
  for (size_t depth = 0; depth < slots.size(); ++depth) {
    const int n = slots[depth];
    if (depth > 0 && n == slots[depth - 1]) continue;
    const double measured = expected > 0 ? us / expected : 1.0;
    const double first_us = expected > 0 ? measured * step_us[n] : per_step_us;
    MovePoint(model.draft, n, measured, first_us / model.speed);
  }
}

void Observe(ServiceRate& rate, int prompt_rows, bool prompts_limited, int64_t duration_us) {
  if (duration_us <= 0) return;
  Learn(rate.step_us, static_cast<double>(duration_us));
  const double measured = 1e6 * prompt_rows / static_cast<double>(duration_us);
  const bool faster = rate.prompt_tokens_per_s > 0 && measured > rate.prompt_tokens_per_s;
  if (prompt_rows > 0 && (prompts_limited || faster)) Learn(rate.prompt_tokens_per_s, measured);
}

double SecondsToFirstToken(const ServiceRate& rate, int64_t tokens) {
  if (rate.prompt_tokens_per_s <= 0) return 0;
  return static_cast<double>(tokens) / rate.prompt_tokens_per_s + rate.step_us / 1e6;
}

void DecodeStepsUs(const CostModel& model, int first_rows, std::span<double> out) {
  Evaluate(model.decode, model.speed, first_rows, out);
}

double DecodeStepUs(const CostModel& model, int decode_rows) {
  if (decode_rows == 0) return 0;
  double us = 0;
  DecodeStepsUs(model, decode_rows, std::span(&us, 1));
  return us;
}

void DraftStepsUs(const CostModel& model, std::span<double> out) {
  Evaluate(model.draft, model.speed, 0, out);
  if (!out.empty()) out[0] = 0;
}

int PromptRowsWithin(const CostModel& model, int decode_rows, int64_t target_us, int min_rows,
                     int max_rows) {
  if (model.prompt_row_us <= 0) return std::min(min_rows, max_rows);
  const double left_us = static_cast<double>(target_us) - DecodeStepUs(model, decode_rows);
  const double rows = std::clamp(left_us / model.prompt_row_us, 0.0, static_cast<double>(max_rows));
  return std::min(std::max(static_cast<int>(rows), min_rows), max_rows);
}

}  // namespace tandem::scheduler
