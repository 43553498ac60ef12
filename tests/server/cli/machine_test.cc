#include "server/cli/machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace tandem::server {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

// Copies of /proc and /sys/fs/cgroup with what a test writes into them.
class LookAtMemoryTest : public ::testing::Test {
 protected:
  LookAtMemoryTest() {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    root_ = fs::path(::testing::TempDir()) / ("tandem_machine_" + std::string(info->name()));
    fs::remove_all(root_);
    Write("proc/meminfo", "MemTotal: 2097152 kB\nMemAvailable: 1048576 kB\n");
    Write("proc/self/cgroup", "0::/outer/inner\n");
  }
  ~LookAtMemoryTest() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  FreeMemory Look() { return LookAtMemory(root_ / "proc", root_ / "cgroup"); }

  fs::path root_;
};

TEST_F(LookAtMemoryTest, WithoutLimitsTheMachineDecides) {
  Write("cgroup/outer/inner/memory.max", "max\n");
  EXPECT_EQ(Look().bytes, 1024 * kMiB);
  EXPECT_EQ(Look().limit, "on this machine");
}

TEST_F(LookAtMemoryTest, ALimitLeavesWhatIsNotHeldAndCacheIsNotHeld) {
  Write("cgroup/outer/inner/memory.max", std::to_string(512 * kMiB));
  Write("cgroup/outer/inner/memory.current", std::to_string(300 * kMiB));
  Write("cgroup/outer/inner/memory.stat", "anon 1\ninactive_file " + std::to_string(100 * kMiB) +
                                              "\nactive_file " + std::to_string(50 * kMiB) + "\n");
  EXPECT_EQ(Look().bytes, (512 - 150) * kMiB);
  EXPECT_THAT(Look().limit, HasSubstr("512.0 MiB"));
}

TEST_F(LookAtMemoryTest, TheTightestLimitOfAllParentsCounts) {
  Write("cgroup/outer/inner/memory.max", std::to_string(512 * kMiB));
  Write("cgroup/outer/memory.max", std::to_string(256 * kMiB));
  Write("cgroup/memory.max", std::to_string(768 * kMiB));
  EXPECT_EQ(Look().bytes, 256 * kMiB);
}

TEST_F(LookAtMemoryTest, AnOverdrawnLimitLeavesNothing) {
  Write("cgroup/outer/memory.max", std::to_string(256 * kMiB));
  Write("cgroup/outer/memory.current", std::to_string(300 * kMiB));
  EXPECT_EQ(Look().bytes, 0u);
}

TEST_F(LookAtMemoryTest, UnreadableFilesDoNotLimit) {
  fs::remove_all(root_);
  EXPECT_GT(Look().bytes, uint64_t{1} << 50);
}

TEST_F(LookAtMemoryTest, CachesOfTheLastLevelCountOnceEach) {
  for (const char* cpu : {"cpu0", "cpu1", "cpu2"}) {
    const std::string caches = std::string("cpus/") + cpu + "/cache/";
    Write(caches + "index2/level", "2\n");
    Write(caches + "index2/size", "1024K\n");
    Write(caches + "index2/shared_cpu_list", cpu);
    Write(caches + "index3/level", "3\n");
    Write(caches + "index3/size", "32768K\n");
    Write(caches + "index3/shared_cpu_list", std::string(cpu) == "cpu2" ? "2\n" : "0-1\n");
  }
  Write("cpus/online", "0-2\n");
  EXPECT_EQ(LastLevelCacheBytes(root_ / "cpus"), 64 * kMiB);
  EXPECT_EQ(LastLevelCacheBytes(root_ / "nothing"), std::nullopt);
}

}  // namespace
}  // namespace tandem::server
