// What a step costs, learnt from the steps that ran: how many prompt rows fit beside the decoders,
// and whether a draft pays.
//
//   step_us(p, d) ~ speed * decode(d) + p * prompt_row_us     p prompt rows, d decode rows
//   draft_us(s..) ~ sum over chain steps of speed * draft(s)  s slots that still draft in it
//
// Curves instead of slopes: on a CPU one decode row reads all weights, sixteen read them once as
// well. `speed` is the machine's: it drifts by tens of percent within a minute, and while steps of
// one size run, the others are not measured. So every step moves the speed, and a point of the
// decode curve moves only when the step before had another size, against which it can be compared.
// Deterministic: the same measurements give the same model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::scheduler {

// A cost by count (rows, slots), as points that measurements have left. Every count up to 16 has
// its own, above there are four to an octave, each at the mean of the counts that were measured.
struct CostCurve {
  struct Point {
    double count = 0;
    double us = 0;         // at speed 1
    int measurements = 0;  // up to a bound; 0: none
    bool operator==(const Point&) const = default;
  };
  std::vector<Point> points;  // ascending, grows as needed
  bool operator==(const CostCurve&) const = default;
};

struct CostModel {
  double prompt_row_us = 0;  // 0: not measured yet
  double speed = 1;          // duration of a step against that of the curves: above 1 is slower
  CostCurve decode;          // by rows: newest tokens and the drafts behind them
  CostCurve draft;           // by slots: one forward of the drafter
  int last_rows = 0;         // of the last step without prompt rows; 0: there was none
};

// Learns from one step. Steps with fewer than 8 prompt rows beside none or some decoders teach
// nothing about prompt rows, and a single measurement moves an estimate by at most four times
// itself, so that a stall of the machine does not collapse the chunks.
//   decode_rows  newest tokens and the drafts behind them
//   duration_us  of the engine, without drafting
void Observe(CostModel& model, int prompt_rows, int decode_rows, int64_t duration_us);

// Learns from the draft chain of one step, after Observe of the same step.
//   tokens    how many guesses each drafting slot asked for; none: nothing is learnt
//   draft_us  StepResult::draft_us
void ObserveDrafting(CostModel& model, std::span<const int> tokens, int64_t draft_us);

// Predicted cost of the decode rows alone, never falling with their number. Between measured
// numbers a straight line, below them the nearest, beyond them on with the last slope; 0 when
// nothing was measured.
double DecodeStepUs(const CostModel& model, int decode_rows);

// The same for many: out[i] is the cost of first_rows + i rows.
void DecodeStepsUs(const CostModel& model, int first_rows, std::span<double> out);

// Predicted cost of one forward of the drafter: out[i] is that for i slots, out[0] = 0. All 0 when
// nothing was measured.
void DraftStepsUs(const CostModel& model, std::span<double> out);

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
//                    steps show how fast prompts can be served; others count where they were
//                    faster.
void Observe(ServiceRate& rate, int prompt_rows, bool prompts_limited, int64_t duration_us);

// Seconds to the first token of a prompt that `tokens` prompt tokens lead up to, its own included;
// 0 while the rate is not known.
double SecondsToFirstToken(const ServiceRate& rate, int64_t tokens);

}  // namespace tandem::scheduler
