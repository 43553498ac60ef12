// How often guesses hold on text that a drafter was trained for, over KV of every format: T17 of
// mtp.md 5.3 (P-12 to P-14). A drafter that reads a quantised cache wrongly guesses nothing right,
// while the text stays what it is.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/engine/kv_rows.h"
#include "tests/speculation/rig_assistant.h"
#include "tests/speculation/rounds.h"

namespace tandem::testing {
namespace {

constexpr int32_t kEndOfTurn = 106;
constexpr int kMaxTokens = 80;
constexpr int kDrafts = 3;

// The first five prompts of each task in models/demo/heldout.jsonl, as its tokenizer reads them.
const std::vector<int32_t> kPrompts[] = {
    {2,   105, 485, 107, 626, 864, 499, 796, 538, 378, 546, 392, 107, 593, 378, 1387, 577, 378,
     398, 664, 492, 473, 627, 659, 577, 494, 549, 632, 451, 808, 392, 106, 107, 105,  483, 107},
    {2,   105, 485, 107, 626, 701, 499, 714, 538, 378, 546, 392, 107, 1519, 390, 378, 402, 400,
     390, 492, 473, 598, 463, 525, 716, 378, 420, 874, 717, 443, 392, 106,  107, 105, 483, 107},
    {2,    105, 485, 107, 767, 523, 559, 390,  851, 499, 864,  538, 378, 546, 404, 378, 593, 378,
     1212, 577, 378, 403, 664, 492, 473, 1147, 577, 494, 1220, 476, 392, 106, 107, 105, 483, 107},
    {2,   105, 485, 107,  626, 846, 390, 850, 390,  747, 499, 729, 538, 378, 546,
     404, 378, 749, 1466, 378, 397, 401, 488, 1445, 461, 512, 378, 424, 496, 776,
     392, 378, 540, 747,  492, 378, 396, 402, 779,  392, 106, 107, 105, 483, 107},
    {2,   105, 485, 107, 626, 850, 499, 747, 538, 378, 546, 404, 378, 1321, 716, 378, 1528, 404,
     378, 396, 395, 488, 760, 461, 390, 378, 403, 401, 779, 392, 106, 107,  105, 483, 107},
    {2,   105, 485, 107, 1101, 652, 404, 378, 395, 402, 390, 378, 395, 400, 390, 378,
     395, 398, 390, 378, 395,  396, 390, 378, 395, 394, 106, 107, 105, 483, 107},
    {2,   105, 485, 107, 528, 752, 548, 409, 378, 397, 403, 390, 378, 398, 402, 390,
     378, 399, 401, 390, 378, 400, 400, 390, 378, 401, 399, 106, 107, 105, 483, 107},
    {2,   105, 485, 107, 742, 893, 691, 404, 378, 396, 401, 390, 378, 397, 399, 390, 378,
     398, 397, 390, 378, 399, 395, 390, 378, 392, 392, 392, 106, 107, 105, 483, 107},
    {2,   105, 485, 107, 742, 893, 691, 404, 378, 398, 398, 390, 378, 399, 396, 390, 378,
     400, 394, 390, 378, 400, 402, 390, 378, 392, 392, 392, 106, 107, 105, 483, 107},
    {2,   105, 485, 107, 528, 752, 548, 404, 378, 395, 400, 390, 378, 396, 396, 390, 378,
     396, 402, 390, 378, 397, 398, 390, 378, 398, 394, 409, 106, 107, 105, 483, 107},
    {2, 105, 485, 107, 403, 396, 654, 378, 399, 401, 106, 107, 105, 483, 107},
    {2, 105, 485, 107, 399, 403, 654, 378, 397, 395, 106, 107, 105, 483, 107},
    {2,   105, 485, 107, 528, 492, 378, 397, 395, 378,
     389, 378, 402, 401, 409, 106, 107, 105, 483, 107},
    {2, 105, 485, 107, 397, 401, 378, 389, 378, 396, 400, 106, 107, 105, 483, 107},
    {2,   105, 485, 107, 623, 805, 492, 378, 397, 403,
     654, 378, 396, 396, 409, 106, 107, 105, 483, 107}};

struct Acceptance {
  int drafted = 0;
  int accepted = 0;
  std::vector<std::vector<int32_t>> texts;
  double percent() const { return 100.0 * accepted / drafted; }
};

// Answers all prompts greedily, the demo's own assistant guessing.
Acceptance Answer(const std::string& numbers) {
  const std::string dir = std::string(TANDEM_SOURCE_DIR) + "/models/demo";
  RigConfig config = {.threads = 2, .blocks = 160, .max_step_rows = 256, .poison = false};
  SetNumbers(config, numbers);
  EngineRig rig(dir, config);
  const auto assistant = LoadRigAssistantFrom(dir + "/assistant", rig, std::size(kPrompts));
  RoundRig rounds(rig, assistant->AsPropose());
  std::vector<DraftedSequence> all;
  for (const std::vector<int32_t>& prompt : kPrompts) {
    all.push_back(NewSequence(prompt, kMaxTokens, kDrafts));
  }
  for (;;) {
    std::vector<DraftedSequence*> open;
    for (DraftedSequence& s : all) {
      const bool said = std::find(s.output.begin(), s.output.end(), kEndOfTurn) != s.output.end();
      if (!said && !s.ended()) open.push_back(&s);
    }
    if (open.empty()) break;
    rounds.Step(open, 16);
  }
  Acceptance sum;
  for (const DraftedSequence& s : all) {
    for (const Round& round : s.rounds) {
      sum.drafted += round.drafted;
      sum.accepted += round.accepted;
    }
    sum.texts.push_back(s.output);
  }
  return sum;
}

TEST(DemoAcceptanceTest, OverCodesOfEightBitsGuessesHoldAsOftenAsOverSixteen) {
  const Acceptance bf16 = Answer("bf16");
  ASSERT_GT(bf16.drafted, 300);
  EXPECT_GT(bf16.percent(), 40);  // it was trained for these
  RecordProperty("bf16", std::to_string(bf16.percent()));
  const Acceptance q8 = Answer("q8");
  RecordProperty("q8", std::to_string(q8.percent()));
  EXPECT_NEAR(q8.percent(), bf16.percent(), 5.0);
  for (const char* formats :
       {"turbo4", "turbo3", "turbo2", "turbo4 protect 0+2", "turbo3 protect 0+2"}) {
    const Acceptance some = Answer(formats);
    RecordProperty(FormatsTestName(formats), std::to_string(some.percent()));
    EXPECT_GT(some.percent(), 10) << formats;  // far from what a wrong reader gets
  }
}

}  // namespace
}  // namespace tandem::testing
