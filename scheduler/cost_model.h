// What a step costs, learnt from the steps that ran: how many prompt rows fit beside the decoders.
//
//   step_us(p, d) ~ decode_step_us[d] + p * prompt_row_us     p prompt rows, d decode rows
//
// Both are exponentially weighted means of measurements, so they follow the machine. A table per d
// instead of a slope: on a CPU one decode row reads all weights, sixteen read them once as well.
// Deterministic: the same measurements give the same model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::scheduler {

struct CostModel {
  double prompt_row_us = 0;            // 0: not measured yet
  std::vector<double> decode_step_us;  // [d], grows as needed; 0: not measured yet
};

// Learns from one step. Steps with fewer than 8 prompt rows beside none or some decoders teach
// nothing about prompt rows, and a single measurement moves an estimate by at most four times
// itself, so that a stall of the machine does not collapse the chunks.
//   decode_rows  newest tokens and the drafts behind them
//   duration_us  of the engine, without drafting
void Observe(CostModel& model, int prompt_rows, int decode_rows, int64_t duration_us);

// Learns from the draft chain of one step.
//   tokens    how many guesses each drafting slot asked for; none: nothing is learnt
//   draft_us  StepResult::draft_us
void ObserveDrafting(CostModel& model, std::span<const int> tokens, int64_t draft_us);

// Predicted cost of the decode rows alone. Without a measurement for `decode_rows` the nearest one
// below counts, else the nearest above; 0 when nothing was measured.
double DecodeStepUs(const CostModel& model, int decode_rows);

// Prompt rows with which a step of `decode_rows` stays within `target_us`, in
// [min_rows, max_rows] (max_rows wins). min_rows while prompt rows were never measured.
int PromptRowsWithin(const CostModel& model, int decode_rows, int64_t target_us, int min_rows,
                     int max_rows);

// How fast the queue is served, for predictions of the time to the first token.
struct ServiceRate {
  double prompt_tokens_per_s = 0;  // 0: not measured yet
  double step_us = 0;
};

// Learns from one step, as Observe does.
//   prompts_limited  the step had no rows left for prompts that wait in their seats. Only such
//   steps
//                    show how fast prompts can be served; others count where they were faster.
void Observe(ServiceRate& rate, int prompt_rows, bool prompts_limited, int64_t duration_us);

// Seconds to the first token of a prompt that `tokens` prompt tokens lead up to, its own included;
// 0 while the rate is not known.
double SecondsToFirstToken(const ServiceRate& rate, int64_t tokens);

}  // namespace tandem::scheduler
