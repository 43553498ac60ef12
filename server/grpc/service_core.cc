#include "server/grpc/service_core.h"

#include <algorithm>
#include <utility>

#include "server/grpc/request_errors.h"
#include "server/grpc/request_id.h"

namespace tandem::server {
namespace {

constexpr double kSmoothing = 0.2;  // weight of the newest interval
constexpr double kMinRetryS = 0.05;
constexpr double kMaxRetryS = 30.0;
constexpr double kJitter = 0.2;

}  // namespace

void TokenRate::Observe(int64_t tokens_total, int64_t now_us) {
  const int64_t tokens = tokens_total - last_tokens_;
  const int64_t elapsed_us = now_us - last_us_;
  if (last_us_ != 0 && elapsed_us > 0) {
    last_per_second_ = static_cast<double>(tokens) * 1e6 / static_cast<double>(elapsed_us);
    if (tokens > 0 && per_second_ == 0.0) {
      per_second_ = last_per_second_;
    } else if (tokens > 0) {
      per_second_ += kSmoothing * (last_per_second_ - per_second_);
    }
  }
  last_tokens_ = tokens_total;
  last_us_ = now_us;
}

double RetryDelayS(int64_t queued_tokens, double tokens_per_second, double random) {
  const double drain_s =
      tokens_per_second > 0 ? static_cast<double>(queued_tokens) / tokens_per_second : 1.0;
  return std::clamp(drain_s, kMinRetryS, kMaxRetryS) * (1.0 + kJitter * (2.0 * random - 1.0));
}

ServiceCore::ServiceCore(const GrpcConfig& config, HealthState& health, Metrics& metrics)
    : config_(config),
      limits_{.max_n = config.max_n,
              .default_queue_timeout_us = config.default_queue_timeout_ms * 1000},
      health_(health),
      metrics_(metrics),
      started_us_(scheduler::MonotonicNowUs()) {}

double ServiceCore::uptime_s() const {
  return static_cast<double>(scheduler::MonotonicNowUs() - started_us_) * 1e-6;
}

void ServiceCore::SetModel(LoadedModel model) {
  model_owner_ = std::make_unique<const LoadedModel>(std::move(model));
  model_.store(model_owner_.get(), std::memory_order_release);
}

absl::StatusOr<const LoadedModel*> ServiceCore::Model() const {
  const LoadedModel* model = model_.load(std::memory_order_acquire);
  if (model == nullptr) return ModelLoading();
  return model;
}

void ServiceCore::ObserveRate() {
  const auto model = Model();
  if (!model.ok()) return;
  const scheduler::SchedulerStats stats = (*model)->backend.scheduler->stats();
  const int64_t now_us = scheduler::MonotonicNowUs();
  const std::lock_guard lock(rate_mutex_);
  rate_.Observe(stats.prompt_tokens_total + stats.generated_tokens_total, now_us);
  prompt_rate_.Observe(stats.prompt_tokens_total, now_us);
  generated_rate_.Observe(stats.generated_tokens_total, now_us);
}

TokenRates ServiceCore::rates() {
  const std::lock_guard lock(rate_mutex_);
  return {.prompt_per_s = prompt_rate_.last_per_second(),
          .generated_per_s = generated_rate_.last_per_second()};
}

WireStatus ServiceCore::Wire(const absl::Status& status) {
  double delay_s = kMinRetryS;
  if (const auto model = Model(); absl::IsResourceExhausted(status) && model.ok()) {
    const int64_t queued = (*model)->backend.scheduler->stats().queued_prompt_tokens;
    const double random = static_cast<double>(RandomBits() >> 11) * 0x1p-53;
    const std::lock_guard lock(rate_mutex_);
    delay_s = RetryDelayS(queued, rate_.per_second(), random);
  }
  return ToWireStatus(status, delay_s);
}

}  // namespace tandem::server
