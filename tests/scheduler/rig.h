// A scheduler over a simulated device and clock; requests are submitted and stepped by hand.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "scheduler/scheduler.h"
#include "scheduler/status_reason.h"
#include "tests/scheduler/recorder.h"
#include "tests/scheduler/sim_device.h"

namespace tandem::scheduler {

struct Rig {
  SchedulerConfig config = {
      .max_slots = 4, .max_step_rows = 64, .max_queued_requests = 8, .step_target_us = 10'000};
  ModelLimits limits = {.vocab_size = 50'000,  // so large that no stop is drawn by chance
                        .max_context = 200,
                        .window = 20,
                        .block_tokens = 8,
                        .num_blocks = {64, 64}};
  std::unique_ptr<SimDevice> device;
  std::unique_ptr<Scheduler> scheduler;
  std::vector<std::unique_ptr<Recorder>> recorders;
  std::vector<StepTiming> timings;
  std::vector<std::pair<CancelCause, int64_t>> freed;
  absl::Status last_submit;

  void Start() {
    ASSERT_TRUE(Validate(config, limits).ok()) << Validate(config, limits);
    device = std::make_unique<SimDevice>(config, limits);
    scheduler = std::make_unique<Scheduler>(
        config, limits, device->AsRunStep(), [this] { return device->now_us; },
        SchedulerObserver{.on_step = [this](const StepTiming& t) { timings.push_back(t); },
                          .on_freed =
                              [this](CancelCause c, int64_t us) {
                                freed.push_back({c, us});
                              }});
  }

  Request NewRequest(int prompt_tokens, int max_tokens) const {
    Request request;
    for (int i = 0; i < prompt_tokens; ++i) {
      const auto id = static_cast<int64_t>(100 + 7 * i + 1000 * recorders.size());
      request.prompt.push_back(static_cast<int32_t>(id % limits.vocab_size));
    }
    request.stop.max_tokens = max_tokens;
    request.stop.eos_ids = {1};
    request.arrival_us = device->now_us;
    return request;
  }

  // The id; 0 when refused (last_submit says why).
  RequestId Submit(const Request& request, Reservation reservation = {}) {
    recorders.push_back(std::make_unique<Recorder>(request));
    recorders.back()->steps = &device->steps;
    const absl::StatusOr<RequestId> id =
        scheduler->Submit(request, recorders.back()->Sink(), std::move(reservation));
    last_submit = id.status();
    return id.ok() ? *id : 0;
  }
  RequestId Submit(int prompt_tokens, int max_tokens) {
    return Submit(NewRequest(prompt_tokens, max_tokens));
  }

  // Runs until nothing is left, or `turns` turns.
  void Turns(int turns = 100'000) {
    while (turns-- > 0 && scheduler->RunOnce()) {
    }
    EXPECT_THAT(device->errors, testing::IsEmpty());
  }
  // Runs until request `i` has so many tokens, over all choices.
  void TurnsUntilTokens(int i, int tokens) {
    while (recorders[i]->tokens < tokens && scheduler->RunOnce()) {
    }
    EXPECT_THAT(device->errors, testing::IsEmpty());
  }

  const Recorder& Of(int i) const { return *recorders[i]; }
  std::string ReasonOf(int i) const { return GetReason(recorders[i]->status).reason; }

  // All ended, as expected, with nothing left behind.
  void ExpectAllRight() const {
    for (const auto& recorder : recorders) {
      EXPECT_EQ(recorder->finished, 1);
      EXPECT_THAT(recorder->errors, testing::IsEmpty());
      EXPECT_EQ(recorder->CheckAgainstExpected(limits), "");
    }
    ExpectEmpty();
  }
  void ExpectEmpty() const { ExpectNothingHeld(scheduler->stats()); }
};

}  // namespace tandem::scheduler
