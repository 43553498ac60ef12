// The CUDA output head, against the reference.
#include "kernels/cuda/head.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/cuda/w_linear.h"
#include "kernels/cuda/w_linear_codes.h"
#include "kernels/reference/linear_ref.h"
#include "tests/emu/code_matrix.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/linear_problem.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

using K_WORLD::HeadChoice;

struct Problem {
  int rows;
  int dim;
  int vocab;
  float cap;
  std::vector<Bf16> x;
  std::vector<Bf16> table;
  std::vector<uint32_t> suppressed;

  K_WORLD::HeadArgs args() const {
    return {.x = x.data(),
            .x_stride = dim,
            .table = table.data(),
            .suppressed = suppressed.empty() ? nullptr : suppressed.data(),
            .cap = cap,
            .rows = rows,
            .dim = dim,
            .vocab = vocab};
  }
};

Problem RandomProblem(int rows, int dim, int vocab, float cap) {
  // Products of some tens, which the cap bends.
  return {rows,
          dim,
          vocab,
          cap,
          RandomBf16(static_cast<size_t>(rows) * dim, 1, 20.0f),
          RandomBf16(static_cast<size_t>(vocab) * dim, 2, 1.0f / std::sqrt(1.0f * dim)),
          {}};
}

void Suppress(Problem* p, int id) {
  p->suppressed.resize((p->vocab + 31) / 32);
  p->suppressed[id / 32] |= 1u << id % 32;
}

std::vector<float> Logits(const Problem& p, KernelStream* stream) {
  std::vector<float> logits(static_cast<size_t>(p.rows) * p.vocab, NAN);
  K_WORLD::HeadLogits(p.args(), logits.data(), stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return logits;
}

std::vector<HeadChoice> Argmax(const Problem& p, KernelStream* stream) {
  std::vector<HeadChoice> scratch(K_WORLD::HeadScratch(p.rows, p.vocab)), choices(p.rows);
  K_WORLD::HeadArgmax(p.args(), scratch.data(), choices.data(), stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return choices;
}

// The first of the largest logits of each row.
std::vector<HeadChoice> FirstLargest(const std::vector<float>& logits, int rows, int vocab) {
  std::vector<HeadChoice> choices;
  for (int t = 0; t < rows; ++t) {
    HeadChoice best = {logits[t * vocab], 0};
    for (int v = 1; v < vocab; ++v) {
      if (logits[t * vocab + v] > best.value) best = {logits[t * vocab + v], v};
    }
    choices.push_back(best);
  }
  return choices;
}

struct Case {
  int rows;
  int dim;
  int vocab;
  float cap;
};

class HeadTest : public testing::TestWithParam<Case> {};

TEST_P(HeadTest, LogitsAndChoicesEqualTheReferenceInEverySchedule) {
  const auto [rows, dim, vocab, cap] = GetParam();
  Problem p = RandomProblem(rows, dim, vocab, cap);
  for (const int id : {0, 31, 32}) {
    if (id < vocab - 1) Suppress(&p, id);
  }
  std::vector<float> want(static_cast<size_t>(rows) * vocab);
  const std::vector<float> x = Widened(p.x);
  const PackedWeights table = Packed(p.table, vocab, dim);
  LinearReference({.x = x.data(),
                   .x_stride = dim,
                   .w = table.view(),
                   .y = want.data(),
                   .y_stride = vocab,
                   .rows = rows},
                  Operands::kF32);
  for (float& y : want) {
    if (cap > 0.0f) y = static_cast<float>(cap * std::tanh(double{y} / cap));
  }
  std::vector<std::vector<float>> results;
  for (const emu::Schedule& schedule : AllSchedules()) {
    KernelStream stream(schedule, /*os_threads=*/2);
    results.push_back(Logits(p, &stream));
    EXPECT_TRUE(SameBits(Argmax(p, &stream), FirstLargest(results[0], rows, vocab)));
  }
  EXPECT_TRUE(SameBits(results[1], results[0]));
  EXPECT_TRUE(SameBits(results[2], results[0]));
  for (int t = 0; t < rows; ++t) {
    for (int v = 0; v < vocab; ++v) {
      if ((p.suppressed.empty() ? 0 : p.suppressed[v / 32] >> v % 32 & 1) == 0) continue;
      EXPECT_EQ(results[0][t * vocab + v], -INFINITY) << t << " " << v;
      results[0][t * vocab + v] = want[t * vocab + v] = 0.0f;
    }
  }
  EXPECT_LE(RelativeError(results[0], want), kFloatTolerance);
}

INSTANTIATE_TEST_SUITE_P(Shapes, HeadTest,
                         testing::Values(Case{1, 64, 1000, 30.0f}, Case{5, 96, 33, 30.0f},
                                         Case{9, 584, 64, 0.0f}, Case{40, 32, 100, 30.0f},
                                         Case{2, 8, 1, 30.0f}),
                         [](const testing::TestParamInfo<Case>& info) {
                           return std::to_string(info.param.rows) + "x" +
                                  std::to_string(info.param.dim) + "to" +
                                  std::to_string(info.param.vocab);
                         });

TEST(HeadChoiceTest, EqualLogitsGoToTheLowestId) {
  // Given three ids in two blocks with the same row of the table, larger than all others.
  const int rows = 3, dim = 64, vocab = 300;
  Problem p = RandomProblem(rows, dim, vocab, 30.0f);
  for (Bf16& x : p.x) x = ToBf16(1.0f);
  for (const int id : {45, 47, 260}) {
    std::fill_n(p.table.begin() + id * dim, dim, ToBf16(0.5f));
  }
  // When the best are chosen, and again without the lowest.
  KernelStream stream;
  const std::vector<HeadChoice> first = Argmax(p, &stream);
  Suppress(&p, 45);
  const std::vector<HeadChoice> second = Argmax(p, &stream);
  Suppress(&p, 47);
  const std::vector<HeadChoice> third = Argmax(p, &stream);
  // Then it is the lowest of those that remain.
  for (int t = 0; t < rows; ++t) {
    EXPECT_EQ(first[t].id, 45);
    EXPECT_EQ(second[t].id, 47);
    EXPECT_EQ(third[t].id, 260);
    EXPECT_EQ(third[t].value, first[t].value);
  }
}

TEST(HeadChoiceTest, WithoutAnyNumberTheChoiceIsStillAToken) {
  Problem p = RandomProblem(1, 64, 70, 30.0f);
  for (Bf16& x : p.x) x = ToBf16(NAN);
  KernelStream stream;
  const std::vector<HeadChoice> choice = Argmax(p, &stream);
  EXPECT_EQ(choice[0].id, 0);
  EXPECT_EQ(choice[0].value, -INFINITY);
}

TEST(HeadInvarianceTest, ARowsLogitsAreThoseOfTheLinearLayerForAnyNumberOfRows) {
  const int max_rows = 20, dim = 96, vocab = 48;
  const Problem all = RandomProblem(max_rows, dim, vocab, 0.0f);
  KernelStream stream;
  std::vector<float> want(max_rows * vocab);
  K_WORLD::WLinear({.x = all.x.data(),
                    .x_stride = dim,
                    .w = all.table.data(),
                    .y_f32 = want.data(),
                    .y_stride = vocab,
                    .rows = max_rows,
                    .in = dim,
                    .out = vocab},
                   stream.get());
  for (int rows = 1; rows <= max_rows; ++rows) {
    Problem some = all;
    some.rows = rows;
    EXPECT_TRUE(SameBits(Logits(some, &stream), {want.begin(), want.begin() + rows * vocab}))
        << rows;
  }
}

TEST(HeadCodesTest, HasTheLogitsOfTheInt8LinearLayerAndChoosesTheFirstLargest) {
  // Given an int8 table of an odd number of tiles, and its products.
  const int max_rows = 20, dim = 96, vocab = 100;
  const CodeMatrix table = RandomCodes(WeightFormat::kInt8, vocab, dim, 2);
  const std::vector<Bf16> random = RandomBf16(max_rows * dim, 1, 20.0f);
  const DeviceVector<Bf16> x(random.begin(), random.end());
  KernelStream stream;
  DeviceVector<float> want(max_rows * vocab);
  K_WORLD::WLinearCodes({.x = x.data(),
                         .x_stride = dim,
                         .codes = table.packed.data(),
                         .scales = table.packed_scales.data(),
                         .y_f32 = want.data(),
                         .y_stride = vocab,
                         .rows = max_rows,
                         .in = dim,
                         .out = vocab},
                        stream.get());
  // When any number of rows meets the head, then the bits are the same and the choice is theirs.
  for (int rows = 1; rows <= max_rows; ++rows) {
    const K_WORLD::HeadArgs args = {.x = x.data(),
                                    .x_stride = dim,
                                    .codes = table.packed.data(),
                                    .scales = table.packed_scales.data(),
                                    .rows = rows,
                                    .dim = dim,
                                    .vocab = vocab};
    DeviceVector<float> logits(rows * vocab);
    K_WORLD::HeadLogits(args, logits.data(), stream.get());
    DeviceVector<HeadChoice> scratch(K_WORLD::HeadScratch(rows, vocab)), choices(rows);
    K_WORLD::HeadArgmax(args, scratch.data(), choices.data(), stream.get());
    ASSERT_EQ(stream.TakeError(), "");
    const std::vector<float> got(logits.begin(), logits.end());
    EXPECT_TRUE(SameBits(got, {want.begin(), want.begin() + rows * vocab})) << rows;
    EXPECT_TRUE(SameBits({choices.begin(), choices.end()}, FirstLargest(got, rows, vocab))) << rows;
  }
}

TEST(HeadTrafficTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) GTEST_SKIP() << "a device does not count its traffic";
  const int rows = 9, dim = 1536, vocab = 100;
  Problem p = RandomProblem(rows, dim, vocab, 30.0f);
  Suppress(&p, 3);
  const uint64_t blocks = 4, product = 2u * dim * (vocab + rows * blocks);
  KernelStream stream;
  Logits(p, &stream);
  const emu::TrafficBytes logits = stream.TakeTraffic();
  // Emulation counts the word of `suppressed` once per lane.
  EXPECT_GE(logits.read, product);
  EXPECT_LE(logits.read, 1.05 * product);
  EXPECT_EQ(logits.written, 4u * rows * vocab);
  Argmax(p, &stream);
  const emu::TrafficBytes choices = stream.TakeTraffic();
  EXPECT_GE(choices.read, product + 8 * rows * blocks);
  EXPECT_LE(choices.read, 1.05 * product);
  EXPECT_EQ(choices.written, 8 * rows * (blocks + 1));
}

TEST(HeadShapesTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::HeadLogits({.dim = 64, .vocab = 100}, nullptr, stream.get());
  K_WORLD::HeadArgmax({.dim = 64, .vocab = 100}, nullptr, nullptr, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
