#include "server/cli/kv_divergence.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace tandem::server {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr float kNever = -std::numeric_limits<float>::infinity();

// log(sum(exp(logits))) over the ids that can be drawn.
double LogSum(std::span<const float> logits, std::span<const float> reference, float most) {
  double sum = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (reference[i] != kNever) sum += std::exp(static_cast<double>(logits[i]) - most);
  }
  return std::log(sum) + most;
}

}  // namespace

Divergence Diverge(std::span<const float> reference, std::span<const float> other) {
  Divergence result;
  size_t reference_top = 0, other_top = 0;
  float reference_most = kNever, other_most = kNever;
  for (size_t i = 0; i < reference.size(); ++i) {
    const float a = reference[i], b = other[i];
    if (a == kNever) continue;
    const double difference = std::abs(static_cast<double>(a) - static_cast<double>(b));
    if (!std::isfinite(difference)) return {kInfinity, false, kInfinity};
    result.max_abs = std::max(result.max_abs, difference);
    if (a > reference_most) {
      reference_most = a;
      reference_top = i;
    }
    if (b > other_most) {
      other_most = b;
      other_top = i;
    }
  }
  if (reference_most == kNever) return result;
  result.same_top = reference_top == other_top;
  const double reference_log_sum = LogSum(reference, reference, reference_most);
  const double other_log_sum = LogSum(other, reference, other_most);
  double kl = 0.0;
  for (size_t i = 0; i < reference.size(); ++i) {
    if (reference[i] == kNever) continue;
    const double log_p = reference[i] - reference_log_sum;
    const double log_q = other[i] - other_log_sum;
    kl += std::exp(log_p) * (log_p - log_q);
  }
  result.kl = std::max(kl, 0.0);  // rounding may put equal ones a hair below
  return result;
}

void Divergences::Add(const Divergence& one) {
  kl.push_back(one.kl);
  same_top += one.same_top ? 1 : 0;
  max_abs = std::max(max_abs, one.max_abs);
}

DivergenceFigures FiguresOf(const Divergences& divergences) {
  DivergenceFigures figures = {.positions = static_cast<int64_t>(divergences.kl.size()),
                               .same_top = divergences.same_top,
                               .max_abs = divergences.max_abs};
  if (divergences.kl.empty()) return figures;
  // Sorted first: the sum does not depend on the order in which they came.
  std::vector<double> sorted = divergences.kl;
  std::sort(sorted.begin(), sorted.end());
  double sum = 0.0;
  for (const double kl : sorted) sum += kl;
  figures.mean_kl = sum / static_cast<double>(sorted.size());
  const auto rank = static_cast<size_t>(std::ceil(0.999 * static_cast<double>(sorted.size())));
  figures.kl_999 = sorted[std::max<size_t>(rank, 1) - 1];
  figures.max_kl = sorted.back();
  return figures;
}

}  // namespace tandem::server
