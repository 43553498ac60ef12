#include "scheduler/admission.h"

#include <algorithm>
#include <utility>

#include "scheduler/end_status.h"

namespace tandem::scheduler {
namespace {

constexpr int64_t kMaxAmount = int64_t{1} << 40;  // of one request: sums of a full queue stay exact

int64_t Amount(int64_t value) { return std::clamp<int64_t>(value, 0, kMaxAmount); }

bool Exceeds(int64_t queued, int64_t more, int64_t limit) {
  return limit > 0 && (queued > limit || more > limit - queued);
}

}  // namespace

absl::Status Admission::Check(const ReservationRequest& request) const {
  if (counts_.requests >= config_.max_queued_requests) {
    return QueueFullStatus(counts_.requests, config_.max_queued_requests);
  }
  if (counts_.requests > 0) {
    if (Exceeds(counts_.prompt_tokens, Amount(request.prompt_tokens), config_.max_queued_tokens)) {
      return QueueFullStatus(counts_.prompt_tokens, config_.max_queued_tokens, "tokens");
    }
    if (Exceeds(counts_.bytes, Amount(request.bytes), config_.max_queued_bytes)) {
      return QueueFullStatus(counts_.bytes, config_.max_queued_bytes, "bytes");
    }
  }
  const auto tenant = tenants_.find(request.tenant);
  const int64_t of_tenant = tenant == tenants_.end() ? 0 : tenant->second.size();
  if (Exceeds(of_tenant, 1, config_.max_queued_per_tenant)) {
    return TenantLimitStatus(of_tenant, config_.max_queued_per_tenant);
  }
  return absl::OkStatus();
}

absl::StatusOr<Reservation> Admission::Reserve(const ReservationRequest& request) {
  Reservation reservation;
  const std::lock_guard lock(mutex_);
  if (absl::Status status = Check(request); !status.ok()) return status;
  const Held held = {.prompt_tokens = Amount(request.prompt_tokens),
                     .bytes = Amount(request.bytes)};
  counts_.requests += 1;
  counts_.prompt_tokens += held.prompt_tokens;
  counts_.bytes += held.bytes;
  reservation.admission_ = shared_from_this();
  reservation.tenant_ = request.tenant;
  reservation.number_ = ++last_number_;
  tenants_[request.tenant].emplace(reservation.number_, held);
  return reservation;
}

QueueCounts Admission::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

Reservation& Reservation::operator=(Reservation&& other) noexcept {
  Release();
  admission_ = std::move(other.admission_);
  tenant_ = std::move(other.tenant_);
  number_ = other.number_;
  return *this;
}

void Reservation::SetPromptTokens(int64_t tokens) {
  if (admission_ == nullptr) return;
  const std::lock_guard lock(admission_->mutex_);
  Admission::Held& held = admission_->tenants_.at(tenant_).at(number_);
  admission_->counts_.prompt_tokens += Amount(tokens) - held.prompt_tokens;
  held.prompt_tokens = Amount(tokens);
}

void Reservation::SetSubmitted(int priority) {
  if (admission_ == nullptr) return;
  const std::lock_guard lock(admission_->mutex_);
  Admission::Held& held = admission_->tenants_.at(tenant_).at(number_);
  held.priority = priority;
  held.submitted = true;
}

int64_t Reservation::TokensAhead(int priority) const {
  if (admission_ == nullptr) return 0;
  const std::lock_guard lock(admission_->mutex_);
  int64_t tokens = 0;
  for (const auto& [number, held] : admission_->tenants_.at(tenant_)) {
    if (number >= number_) break;
    if (held.submitted && held.priority >= priority) tokens += held.prompt_tokens;
  }
  return tokens;
}

void Reservation::Release() {
  if (admission_ == nullptr) return;
  {
    const std::lock_guard lock(admission_->mutex_);
    const auto tenant = admission_->tenants_.find(tenant_);
    const auto held = tenant->second.find(number_);
    admission_->counts_.requests -= 1;
    admission_->counts_.prompt_tokens -= held->second.prompt_tokens;
    admission_->counts_.bytes -= held->second.bytes;
    tenant->second.erase(held);
    if (tenant->second.empty()) admission_->tenants_.erase(tenant);
  }
  admission_ = nullptr;
}

}  // namespace tandem::scheduler
