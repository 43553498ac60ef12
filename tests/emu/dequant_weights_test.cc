// Int8 and int4 weights for prompt rows under emulation.
#include "kernels/cuda/dequant_weights.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/cuda/p_linear.h"
#include "kernels/cuda/w_linear_pack.h"
#include "kernels/weight_codes.h"
#include "tests/emu/bf16_rows.h"
#include "tests/emu/code_matrix.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

// What the kernel should make of a matrix.
std::vector<Bf16> Expanded(const CodeMatrix& m) {
  std::vector<Bf16> w;
  for (int n = 0; n < m.out; ++n) {
    for (int k = 0; k < m.in; ++k) w.push_back(ToBf16(m.At(n, k)));
  }
  return w;
}

class DequantWeightsTest : public testing::TestWithParam<WeightFormat> {};

TEST_P(DequantWeightsTest, EveryWeightIsItsCodeTimesItsScaleRounded) {
  struct Shape {
    int out;
    int in;
  };
  for (const auto& [out, in] : {Shape{1, 8}, Shape{16, 64}, Shape{40, 104}, Shape{33, 704}}) {
    const CodeMatrix m = RandomCodes(GetParam(), out, in, 1);
    const std::vector<Bf16> want = Expanded(m);
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule, /*os_threads=*/2);
      DeviceVector<Bf16> w(want.size(), ToBf16(77.0f));
      K_WORLD::DequantWeights({.format = m.format,
                               .codes = m.packed.data(),
                               .scales = m.packed_scales.data(),
                               .w = w.data(),
                               .out = out,
                               .in = in},
                              stream.get());
      ASSERT_EQ(stream.TakeError(), "");
      EXPECT_TRUE(SameBits(std::vector<Bf16>(w.begin(), w.end()), want)) << out << "x" << in;
      if (!kCountsTraffic) continue;
      const emu::TrafficBytes traffic = stream.TakeTraffic();
      EXPECT_EQ(traffic.written, 2u * out * in);
      const size_t blocks = PackedCodeBlocks(out, in);
      // Four lanes ask for the same eight bytes of scales.
      EXPECT_EQ(traffic.read, PackedCodeBytes(m.format, out, in) + blocks * 32 * 8);
    }
  }
}

TEST_P(DequantWeightsTest, ProductsAreThoseOfTheExpandedWeightsWithAnyScratch) {
  // Given a matrix of three pieces of the smallest scratch.
  const int rows = 5, in = 72, out = 300;
  const CodeMatrix m = RandomCodes(GetParam(), out, in, 2);
  const DeviceVector<Bf16> x = OnDevice(RandomBf16(rows * in, 3));
  const DeviceVector<Bf16> w = OnDevice(Expanded(m));
  KernelStream stream({}, /*os_threads=*/2);
  DeviceVector<float> want(rows * out);
  DeviceVector<Bf16> want_bf16(rows * out);
  K_WORLD::WLinearArgs plain = {.x = x.data(),
                                .x_stride = in,
                                .w = w.data(),
                                .y_f32 = want.data(),
                                .y_stride = out,
                                .rows = rows,
                                .in = in,
                                .out = out};
  K_WORLD::PLinear(plain, stream.get());
  plain.y_f32 = nullptr;
  plain.y = want_bf16.data();
  K_WORLD::PLinear(plain, stream.get());
  for (const size_t elements :
       {K_WORLD::PromptScratchMin(in), K_WORLD::PromptScratchMin(in) * 2 + 1, size_t{out} * in}) {
    // When it is multiplied with scratch for a third, most and all of it.
    DeviceVector<Bf16> scratch(elements);
    DeviceVector<float> y(rows * out, 77.0f);
    DeviceVector<Bf16> y_bf16(rows * out);
    K_WORLD::WLinearCodesArgs args = {.x = x.data(),
                                      .x_stride = in,
                                      .format = m.format,
                                      .codes = m.packed.data(),
                                      .scales = m.packed_scales.data(),
                                      .y_f32 = y.data(),
                                      .y_stride = out,
                                      .rows = rows,
                                      .in = in,
                                      .out = out};
    K_WORLD::PLinearCodes(args, {scratch.data(), elements}, stream.get());
    args.y_f32 = nullptr;
    args.y = y_bf16.data();
    K_WORLD::PLinearCodes(args, {scratch.data(), elements}, stream.get());
    // Then the bits are those of the expanded weights.
    ASSERT_EQ(stream.TakeError(), "");
    EXPECT_TRUE(SameBits(y, want)) << elements;
    EXPECT_TRUE(SameBits(y_bf16, want_bf16)) << elements;
  }
}

TEST_P(DequantWeightsTest, SoIsGeglu) {
  const int rows = 3, in = 40, width = 150;
  const int out = GateUpRows(width);  // 320: three pieces of the smallest scratch
  const CodeMatrix m = RandomCodes(GetParam(), out, in, 2);
  const DeviceVector<Bf16> x = OnDevice(RandomBf16(rows * in, 3));
  const DeviceVector<Bf16> w = OnDevice(Expanded(m));
  KernelStream stream({}, /*os_threads=*/2);
  DeviceVector<Bf16> want(rows * width);
  K_WORLD::PLinearGeglu({.x = x.data(),
                         .x_stride = in,
                         .w = w.data(),
                         .y = want.data(),
                         .y_stride = width,
                         .rows = rows,
                         .in = in,
                         .width = width},
                        stream.get());
  for (const size_t elements : {K_WORLD::PromptScratchMin(in), size_t{out} * in}) {
    DeviceVector<Bf16> scratch(elements);
    DeviceVector<Bf16> y(rows * width, ToBf16(77.0f));
    K_WORLD::PLinearCodesGeglu({.x = x.data(),
                                .x_stride = in,
                                .format = m.format,
                                .codes = m.packed.data(),
                                .scales = m.packed_scales.data(),
                                .y = y.data(),
                                .y_stride = width,
                                .rows = rows,
                                .in = in,
                                .width = width},
                               {scratch.data(), elements}, stream.get());
    ASSERT_EQ(stream.TakeError(), "");
    EXPECT_TRUE(SameBits(y, want)) << elements;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DequantWeightsTest, testing::ValuesIn(kCodeFormats),
                         [](const testing::TestParamInfo<WeightFormat>& info) {
                           return FormatName(info.param);
                         });

}  // namespace
}  // namespace tandem::kernels
