// Rows moved by an index on CUDA.
#include "kernels/cuda/move_rows.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

DeviceVector<uint32_t> Counted(size_t count) {
  DeviceVector<uint32_t> values(count);
  std::iota(values.begin(), values.end(), 1000u);
  return values;
}

// Widths in words: in pieces of 16 bytes, in words, and one word.
constexpr int kWidths[] = {64, 1100, 7, 1};

TEST(GatherRowsTest, TakesTheRowsThatTheIndexNames) {
  for (const int width : kWidths) {
    const int src_stride = width + 4, dst_stride = width % 4 == 0 ? width + 8 : width + 1;
    const DeviceVector<uint32_t> src = Counted(9 * src_stride);
    const DeviceVector<int32_t> index = {8, 0, -1, 3, 3};
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule, /*os_threads=*/2);
      DeviceVector<uint32_t> dst(index.size() * dst_stride);
      K_WORLD::GatherRows({.src = src.data(),
                           .src_stride = 4 * src_stride,
                           .index = index.data(),
                           .dst = dst.data(),
                           .dst_stride = 4 * dst_stride,
                           .row_bytes = 4 * width,
                           .rows = 5},
                          stream.get());
      ASSERT_EQ(stream.TakeError(), "");
      for (int i = 0; i < 5; ++i) {
        for (int c = 0; c < dst_stride; ++c) {
          const bool written = index[i] >= 0 && c < width;
          ASSERT_EQ(dst[i * dst_stride + c], written ? src[index[i] * src_stride + c] : 0)
              << "row " << i << " column " << c << " of " << width;
        }
      }
    }
  }
}

TEST(CompactRowsTest, KeepsTheRowsThatTheIndexNamesInPlace) {
  // Given chains in which every row read was about to be overwritten, over several goes.
  const DeviceVector<int32_t> index = {0,  1,  3,  4,  5,  6,  7,  8,  9, 11,
                                       12, 13, 14, 15, 16, 17, 18, 19, 30};
  const int rows = static_cast<int>(index.size());
  for (const int width : kWidths) {
    const int stride = width % 4 == 0 ? width + 4 : width + 1;
    const DeviceVector<uint32_t> before = Counted(31 * stride);
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule, /*os_threads=*/2);
      DeviceVector<uint32_t> data = before;
      K_WORLD::CompactRows({.data = data.data(),
                            .stride = 4 * stride,
                            .index = index.data(),
                            .row_bytes = 4 * width,
                            .rows = rows},
                           stream.get());
      ASSERT_EQ(stream.TakeError(), "");
      for (int i = 0; i < 31; ++i) {
        for (int c = 0; c < stride; ++c) {
          const int from = i < rows && c < width ? index[i] : i;
          ASSERT_EQ(data[i * stride + c], before[from * stride + c])
              << "row " << i << " column " << c << " of " << width;
        }
      }
    }
  }
}

TEST(MoveRowsTest, MoveTheBytesOfTheirFormulas) {
  const int rows = 9, width = 1536;
  const uint64_t bytes = uint64_t{rows} * width * 4, index_bytes = rows * (width / 4) * 4u;
  DeviceVector<uint32_t> src(rows * width), dst(rows * width);
  DeviceVector<int32_t> index(rows);
  std::iota(index.begin(), index.end(), 0);
  KernelStream stream;
  K_WORLD::GatherRows({src.data(), 4 * width, index.data(), dst.data(), 4 * width, 4 * width, rows},
                      stream.get());
  const emu::TrafficBytes gathered = stream.TakeTraffic();
  K_WORLD::CompactRows({src.data(), 4 * width, index.data(), 4 * width, rows}, stream.get());
  const emu::TrafficBytes compacted = stream.TakeTraffic();
  ASSERT_EQ(stream.TakeError(), "");
  for (const emu::TrafficBytes& traffic : {gathered, compacted}) {
    if (kCountsTraffic) {
      EXPECT_EQ(traffic.read, bytes + index_bytes);
      EXPECT_EQ(traffic.written, bytes);
    }
  }
}

TEST(MoveRowsTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::GatherRows({.row_bytes = 16}, stream.get());
  K_WORLD::CompactRows({.row_bytes = 16}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
