// Rows of an int8 table: exactly the numbers that the codes stand for.
#include "kernels/cuda/embed_codes.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/emu/bf16_rows.h"
#include "tests/emu/code_matrix.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

class EmbedCodesTest : public testing::TestWithParam<int> {};

TEST_P(EmbedCodesTest, GivesEachIdItsRowTimesTheScale) {
  // Given a table of three tiles, the last not full, and ids that repeat.
  const int dim = GetParam(), vocab = 40;
  const CodeMatrix table = RandomCodes(WeightFormat::kInt8, vocab, dim, 1);
  const DeviceVector<int32_t> ids = {0, 39, 7, 8, 15, 16, 39};
  const int rows = static_cast<int>(ids.size()), stride = dim + 8;
  const float scale = 2.25f;
  std::vector<float> want(rows * stride, 77.0f);
  for (int t = 0; t < rows; ++t) {
    for (int k = 0; k < dim; ++k) want[t * stride + k] = table.At(ids[t], k) * scale;
  }
  for (const emu::Schedule& schedule : AllSchedules()) {
    // When they are embedded as f32 and as bf16.
    KernelStream stream(schedule, /*os_threads=*/2);
    DeviceVector<float> wide(rows * stride, 77.0f);
    DeviceVector<Bf16> narrow(rows * stride, ToBf16(77.0f));
    K_WORLD::EmbedCodesArgs args = {.codes = table.packed.data(),
                                    .scales = table.packed_scales.data(),
                                    .ids = ids.data(),
                                    .scale = scale,
                                    .out_f32 = wide.data(),
                                    .out_stride = stride,
                                    .rows = rows,
                                    .dim = dim};
    K_WORLD::EmbedCodes(args, stream.get());
    args.out_f32 = nullptr;
    args.out = narrow.data();
    K_WORLD::EmbedCodes(args, stream.get());
    ASSERT_EQ(stream.TakeError(), "");
    // Then the values are exact, and what lies between rows stays as it was.
    EXPECT_TRUE(SameBits({wide.begin(), wide.end()}, want));
    EXPECT_TRUE(SameBits({narrow.begin(), narrow.end()}, Rounded(want)));
  }
}

INSTANTIATE_TEST_SUITE_P(Dims, EmbedCodesTest, testing::Values(8, 96, 256, 2120),
                         [](const testing::TestParamInfo<int>& info) {
                           return std::to_string(info.param);
                         });

TEST(EmbedCodesTrafficTest, MovesTheBytesOfItsFormula) {
  if (!kCountsTraffic) GTEST_SKIP() << "a device does not count its traffic";
  const int dim = 2120;
  const CodeMatrix table = RandomCodes(WeightFormat::kInt8, 5, dim, 1);
  const DeviceVector<int32_t> ids = {4, 1, 2};
  DeviceVector<float> out(3 * dim);
  KernelStream stream;
  K_WORLD::EmbedCodes({.codes = table.packed.data(),
                       .scales = table.packed_scales.data(),
                       .ids = ids.data(),
                       .out_f32 = out.data(),
                       .out_stride = dim,
                       .rows = 3,
                       .dim = dim},
                      stream.get());
  const emu::TrafficBytes traffic = stream.TakeTraffic();
  EXPECT_EQ(traffic.read, 3u * (2 * dim + dim / 4 + 4 * 256));
  EXPECT_EQ(traffic.written, 3u * 4 * dim);
}

TEST(EmbedCodesShapesTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::EmbedCodes({.dim = 64}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
