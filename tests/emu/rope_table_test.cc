// Rotary tables on CUDA.
#include "kernels/cuda/rope_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "kernels/reference/row_ops_ref.h"
#include "tests/emu/bf16_rows.h"
#include "tests/emu/device_vector.h"
#include "tests/emu/kernel_stream.h"
#include "tests/emu/schedules.h"

namespace tandem::kernels {
namespace {

// The frequencies of a layer: theta^(-2j/dim).
DeviceVector<float> Frequencies(int live, int dim, float theta) {
  DeviceVector<float> inv_freq;
  for (int j = 0; j < live; ++j) {
    inv_freq.push_back(1.0f / std::pow(theta, 2.0f * static_cast<float>(j) / dim));
  }
  return inv_freq;
}

struct Table {
  DeviceVector<float> cos, sin;
};

Table TableOf(const DeviceVector<int32_t>& positions, const DeviceVector<float>& inv_freq,
              KernelStream* stream) {
  const size_t values = positions.size() * inv_freq.size();
  Table table = {DeviceVector<float>(values), DeviceVector<float>(values)};
  K_WORLD::RopeTable({.positions = positions.data(),
                      .inv_freq = inv_freq.data(),
                      .live = static_cast<int>(inv_freq.size()),
                      .rows = static_cast<int>(positions.size()),
                      .cos = table.cos.data(),
                      .sin = table.sin.data()},
                     stream->get());
  EXPECT_EQ(stream->TakeError(), "");
  return table;
}

TEST(RopeTableKernelTest, IsTheRoundedValueAtEveryPosition) {
  // Given every quarter turn's neighbourhood and the last positions of the longest context.
  const DeviceVector<int32_t> positions = {
      0, 1, 2, 3, 4, 5, 6, 11, 355, 710, 103993, 131071, 262142, 262143, 3141593, 16777215};
  for (const auto& [live, dim, theta] : {std::tuple(128, 256, 1e4f), std::tuple(64, 512, 1e6f)}) {
    const DeviceVector<float> inv_freq = Frequencies(live, dim, theta);
    std::vector<float> cos(positions.size() * live), sin(cos.size());
    RopeTableReference(
        {.positions = positions, .inv_freq = inv_freq, .cos = cos.data(), .sin = sin.data()});
    std::vector<Table> tables;
    for (const emu::Schedule& schedule : AllSchedules()) {
      KernelStream stream(schedule, /*os_threads=*/2);
      tables.push_back(TableOf(positions, inv_freq, &stream));
    }
    for (const Table& table : tables) {
      EXPECT_TRUE(SameBits(table.cos, DeviceVector<float>(cos.begin(), cos.end())));
      EXPECT_TRUE(SameBits(table.sin, DeviceVector<float>(sin.begin(), sin.end())));
    }
  }
}

TEST(RopeTableKernelTest, MovesTheBytesOfItsFormula) {
  const DeviceVector<int32_t> positions(5);
  KernelStream stream;
  TableOf(positions, Frequencies(64, 512, 1e6f), &stream);
  const emu::TrafficBytes traffic = stream.TakeTraffic();
  if (kCountsTraffic) {
    EXPECT_EQ(traffic.read, 8u * 5 * 64);
    EXPECT_EQ(traffic.written, 8u * 5 * 64);
  }
}

TEST(RopeTableKernelTest, NoRowsAreNoWork) {
  KernelStream stream;
  K_WORLD::RopeTable({.live = 64}, stream.get());
  EXPECT_EQ(stream.TakeError(), "");
}

}  // namespace
}  // namespace tandem::kernels
