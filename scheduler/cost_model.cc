#include "scheduler/cost_model.h"

#include <algorithm>

namespace tandem::scheduler {
namespace {

constexpr double kWeight = 0.25;    // of the newest measurement
constexpr double kMaxChange = 4.0;  // of one measurement against the estimate
constexpr int kMinRowsToLearn = 8;  // below, the fixed cost of a step drowns that of its rows

void Learn(double& estimate, double measured) {
  if (estimate <= 0) {
    estimate = std::max(measured, 0.0);
    return;
  }
  measured = std::clamp(measured, estimate / kMaxChange, estimate * kMaxChange);
  estimate += kWeight * (measured - estimate);
}

}  // namespace

void Observe(CostModel& model, int prompt_rows, int decode_rows, int64_t duration_us) {
  const double us = static_cast<double>(duration_us);
  if (prompt_rows == 0) {
    if (decode_rows >= static_cast<int>(model.decode_step_us.size())) {
      model.decode_step_us.resize(decode_rows + 1, 0.0);
    }
    Learn(model.decode_step_us[decode_rows], us);
  } else if (prompt_rows >= kMinRowsToLearn) {
    Learn(model.prompt_row_us, (us - DecodeStepUs(model, decode_rows)) / prompt_rows);
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

double DecodeStepUs(const CostModel& model, int decode_rows) {
  if (decode_rows == 0) return 0;
  const std::vector<double>& table = model.decode_step_us;
  const int size = static_cast<int>(table.size());
  for (int d = std::min(decode_rows, size - 1); d > 0; --d) {
    if (table[d] > 0) return table[d];
  }
  for (int d = decode_rows + 1; d < size; ++d) {
    if (table[d] > 0) return table[d];
  }
  return 0;
}

int PromptRowsWithin(const CostModel& model, int decode_rows, int64_t target_us, int min_rows,
                     int max_rows) {
  if (model.prompt_row_us <= 0) return std::min(min_rows, max_rows);
  const double left_us = static_cast<double>(target_us) - DecodeStepUs(model, decode_rows);
  const double rows = std::clamp(left_us / model.prompt_row_us, 0.0, static_cast<double>(max_rows));
  return std::min(std::max(static_cast<int>(rows), min_rows), max_rows);
}

}  // namespace tandem::scheduler
