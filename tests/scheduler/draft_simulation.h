// A batch of drafting sequences on a simulated machine and clock: what a policy comes to in time.
//
// Not here  blocks, prompts, arrivals (simulation_test.cc).
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "scheduler/cost_model.h"
#include "scheduler/draft_length.h"

namespace tandem::scheduler {

constexpr int kPlaces = 8;  // guesses at most

// What steps really cost: by rows, and by slots of one forward of the drafter. In microseconds.
struct Machine {
  double fixed_us = 1000;    // reading the weights
  double row_us = 10;        // of every row
  double bound_row_us = 0;   // a row's arithmetic where that is all that counts
  double draft_us = 50;      // a forward of the drafter
  double draft_slot_us = 2;  // every slot of it

  double StepUs(int rows) const { return std::max(fixed_us + row_us * rows, bound_row_us * rows); }
  double DraftUs(int slots) const { return draft_us + draft_slot_us * slots; }
};

// Does a guess at `place` hold, all before it having held? By token of the output.
using Acceptance = std::function<double(int64_t token, int place)>;
inline Acceptance Always(double rate) {
  return [rate](int64_t, int) { return rate; };
}

// A batch of sequences over a machine, as the scheduler runs them: guesses are asked for at the end
// of a step and verified in the next.
class DraftSimulation {
 public:
  DraftSimulation(const Machine& machine, uint64_t seed, double noise = 0)
      : machine_(machine), random_(seed), noise_(noise) {}

  struct Seat {
    Acceptance acceptance;
    Speculation::Mode mode = Speculation::Mode::kAuto;
    int64_t tokens_left = 0;
    int max_guesses = 8;
    DraftHistory history = {};
    int pending = 0;
    int64_t tokens = 0;
    int64_t guesses = 0;
    int64_t last_guess_at = 0;  // token
    DraftReason reason = DraftReason::kNotAllowed;
  };

  // Costs as a warm-up would measure them, each once.
  void WarmUp(int max_rows, int max_slots) {
    for (int rows = 1; rows <= max_rows; rows = std::max(rows + 1, rows * 3 / 2)) {
      scheduler::Observe(cost, 0, rows, Us(machine_.StepUs(rows)));
    }
    for (int slots = 1; slots <= max_slots; slots *= 2) {
      ObserveDrafting(cost, std::vector<int>(slots, 1), Us(machine_.DraftUs(slots)));
    }
  }

  void Step() {
    ++step;
    std::vector<DraftWish> wishes;
    int rows = 0;
    for (Seat& seat : seats) {
      rows += 1 + seat.pending;
      // The newest token of this step and one after a draft are drawn anyway.
      const int64_t room = seat.tokens_left - 1 - seat.pending - 1;
      wishes.push_back(
          {.mode = seat.mode,
           .max_tokens = static_cast<int>(std::clamp<int64_t>(room, 0, seat.max_guesses)),
           .pending = seat.pending,
           .history = seat.history});
    }
    choice = ChooseDraftLengths(wishes, prior, cost, step);
    int deepest = 0;
    for (size_t i = 0; i < seats.size(); ++i) {
      ASSERT_LE(choice.tokens[i], wishes[i].max_tokens);
      deepest = std::max(deepest, choice.tokens[i]);
    }
    const int64_t step_us = Us(machine_.StepUs(rows));
    double chain_us = 0;
    std::vector<int> asked;
    for (int depth = 0; depth < deepest; ++depth) {
      int slots = 0;
      for (const int tokens : choice.tokens) slots += tokens > depth;
      chain_us += machine_.DraftUs(slots);
    }
    const int64_t draft_us = Us(chain_us);
    now_us += step_us + draft_us;
    last_rows = rows;

    scheduler::Observe(cost, 0, rows, step_us);
    for (size_t i = 0; i < seats.size(); ++i) {
      Verify(seats[i]);
      Seat& seat = seats[i];
      if (choice.tokens[i] > 0) asked.push_back(choice.tokens[i]);
      if (choice.tokens[i] > 0) seat.last_guess_at = seat.tokens;
      if (seat.reason == DraftReason::kPays && choice.reasons[i] == DraftReason::kAcceptance) {
        ++switched_off;
      }
      if (choice.reasons[i] != DraftReason::kTrial) seat.reason = choice.reasons[i];
      seat.guesses += choice.tokens[i];
      seat.pending = choice.tokens[i];
    }
    ObserveDrafting(cost, asked, draft_us);
  }

  void Steps(int n) {
    while (n-- > 0) Step();
  }

  // Until every seat has `tokens` more, each seat going on for as long as the slowest needs.
  void Tokens(int64_t tokens) {
    for (Seat& seat : seats) seat.tokens_left = std::numeric_limits<int32_t>::max();
    std::vector<int64_t> until;
    for (const Seat& seat : seats) until.push_back(seat.tokens + tokens);
    const auto all_there = [&] {
      for (size_t i = 0; i < seats.size(); ++i) {
        if (seats[i].tokens < until[i]) return false;
      }
      return true;
    };
    while (!all_there()) Step();
  }

  // One request after the other, of `tokens` tokens each.
  void Requests(int requests, int64_t tokens, const std::function<Acceptance(int)>& acceptance) {
    for (int i = 0; i < requests; ++i) {
      seats = {{.acceptance = acceptance(i), .tokens_left = tokens}};
      while (seats[0].tokens_left > 0) Step();
    }
  }

  int64_t AllTokens() const {
    int64_t tokens = 0;
    for (const Seat& seat : seats) tokens += seat.tokens;
    return tokens;
  }

  std::vector<Seat> seats;
  DraftPrior prior;
  CostModel cost;
  DraftChoice choice;
  int64_t step = 0;
  int64_t now_us = 0;
  int last_rows = 0;
  int switched_off = 0;
  std::function<double(int64_t now_us)> slowness;  // of the whole machine

 private:
  int64_t Us(double us) {
    if (slowness) us *= slowness(now_us);
    if (noise_ > 0) us *= std::exp(std::normal_distribution<double>(0, noise_)(random_));
    return std::llround(us);
  }

  void Verify(Seat& seat) {
    int accepted = 0;
    while (accepted < seat.pending) {
      const double rate = seat.acceptance(seat.tokens + accepted, accepted);
      if (std::uniform_real_distribution<double>(0, 1)(random_) >= rate) break;
      ++accepted;
    }
    scheduler::Observe(seat.history, prior, seat.pending, accepted);
    seat.tokens += 1 + accepted;
    seat.tokens_left -= 1 + accepted;
  }

  const Machine machine_;
  std::mt19937_64 random_;
  const double noise_;
};

// A machine on which a row costs half a percent and a forward of the drafter 5 %.
inline Machine CheapRows() { return {.row_us = 5}; }

// On which arithmetic is all that counts.
inline Machine ExpensiveRows() { return {.fixed_us = 0, .row_us = 0, .bound_row_us = 1000}; }

}  // namespace tandem::scheduler
