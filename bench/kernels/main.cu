// kernel_bench: a Markdown table of kernel times. Without a device it says why and ends with 77.
#include <cstdio>
#include <cstring>
#include <string>

#include "bench/kernels/kernel_bench.h"

namespace tandem::kernels::K_WORLD {
namespace {

constexpr int kNoDevice = 77;

void Print(const Bench& bench) {
  double copy = 0.0;  // bytes per microsecond
  for (const BenchResult& r : bench.results()) {
    if (r.name == kCopyName) copy = static_cast<double>(r.bytes) / r.median_us;
  }
  std::printf(
      "| kernel | us | min | max | MB | GB/s | of copy | TFLOP/s | first release, us |\n"
      "|---|--:|--:|--:|--:|--:|--:|--:|--:|\n");
  for (const BenchResult& r : bench.results()) {
    const double rate = static_cast<double>(r.bytes) / r.median_us;
    std::printf("| %s | %.1f | %.1f | %.1f | %.2f | %.0f | %.0f %% | ", r.name.c_str(), r.median_us,
                r.min_us, r.max_us, static_cast<double>(r.bytes) / 1e6, rate / 1e3,
                100.0 * rate / copy);
    if (r.flops > 0.0) std::printf("%.0f", r.flops / r.median_us / 1e6);
    std::printf(" | ");
    if (r.gate_us > 0.0) {
      std::printf("%.0f, %s", r.gate_us, r.median_us <= r.gate_us ? "met" : "missed");
    }
    std::printf(" |\n");
  }
  for (const std::string& name : bench.left_out()) {
    std::printf("\n%s: left out, the device has too little memory\n", name.c_str());
  }
}

int Main(bool tiny) {
  const absl::StatusOr<Device> device = Device::Open(0);
  if (!device.ok()) {
    std::fprintf(stderr, "no device to measure: %s\n",
                 std::string(device.status().message()).c_str());
    return kNoDevice;
  }
  absl::StatusOr<Bench> bench = Bench::Open(*device, tiny);
  absl::Status status = bench.status();
  for (const auto run : {&RunRowCases, &RunLinearCases, &RunAttentionCases}) {
    if (status.ok()) status.Update(run(*bench));
  }
  if (bench.ok()) {
    std::printf("%s\n\n", DescribeDevice(device->info()).c_str());
    Print(*bench);
  }
  if (!status.ok()) {
    std::fprintf(stderr, "kernel_bench: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace tandem::kernels::K_WORLD

int main(int argc, char** argv) {
  const bool tiny = argc == 2 && std::strcmp(argv[1], "--tiny") == 0;
  if (argc > 1 && !tiny) {
    std::fprintf(stderr,
                 "usage: kernel_bench [--tiny]\n\nPrints a table of kernel times on device 0. "
                 "--tiny: shapes without meaning, to see that it runs.\n");
    return 2;
  }
  return tandem::kernels::K_WORLD::Main(tiny);
}
