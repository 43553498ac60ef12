#include "server/cli/doctor.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "server/cli/doctor_machine.h"

namespace tandem::server {
namespace {

using kernels::CpuIsa;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Level = Finding::Level;

TEST(CheckCpuTest, OnlyAMachineWithoutVectorsOrAnOptionBeyondItIsNoted) {
  EXPECT_EQ(CheckCpu("X", "auto", CpuIsa::kAvx2).level, Level::kPass);
  EXPECT_THAT(CheckCpu("X", "auto", CpuIsa::kAvx512Bf16).text,
              HasSubstr("X, kernels for avx512bf16"));
  EXPECT_EQ(CheckCpu("X", "auto", CpuIsa::kRef).level, Level::kWarn);
  EXPECT_EQ(CheckCpu("X", "avx512", CpuIsa::kAvx2).level, Level::kFail);
  EXPECT_EQ(CheckCpu("X", "ref", CpuIsa::kAvx2).level, Level::kWarn);
}

TEST(CheckThreadsTest, MoreThreadsThanCpusOrLessThanOneCpuIsNoted) {
  EXPECT_EQ(CheckThreads(0, 8, std::nullopt).level, Level::kPass);
  EXPECT_THAT(CheckThreads(0, 8, 2.5).text, HasSubstr("2, on 8 CPUs with a cgroup quota of 2.5"));
  const Finding many = CheckThreads(8, 8, 2.5);
  EXPECT_EQ(many.level, Level::kWarn);
  EXPECT_THAT(many.advice, HasSubstr("--threads to 2"));
  EXPECT_EQ(CheckThreads(0, 8, 0.5).level, Level::kWarn);
}

TEST(CheckHugePagesTest, TheModeInBracketsDecides) {
  const std::filesystem::path sys = ::testing::TempDir() + "/doctor_sys";
  std::filesystem::create_directories(sys / "kernel/mm/transparent_hugepage");
  const auto level = [&](const std::string& modes) {
    std::ofstream(sys / "kernel/mm/transparent_hugepage/enabled") << modes << "\n";
    return CheckHugePages(sys).level;
  };
  EXPECT_EQ(level("[always] madvise never"), Level::kPass);
  EXPECT_EQ(level("always [madvise] never"), Level::kPass);
  EXPECT_EQ(level("always madvise [never]"), Level::kWarn);
  EXPECT_EQ(CheckHugePages(sys / "none").level, Level::kWarn);
}

TEST(CheckLimitsTest, LittleMemoryAndFewFilesAreNoted) {
  EXPECT_EQ(CheckFreeMemory({.bytes = 1u << 30, .limit = "here"}).level, Level::kPass);
  EXPECT_EQ(CheckFreeMemory({.bytes = 1u << 20, .limit = "here"}).level, Level::kWarn);
  EXPECT_EQ(CheckOpenFiles(1024).level, Level::kPass);
  EXPECT_EQ(CheckOpenFiles(UINT64_MAX).text, "no limit");
  EXPECT_THAT(CheckOpenFiles(256).advice, HasSubstr("ulimit -n"));
}

TEST(CheckPortTest, ABusyPortFailsAndAFreeOneIsLeftFree) {
  // Given a port that somebody listens on.
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof(address);
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const std::string taken = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  // When it is looked at before and after the listener has gone.
  const Finding busy = CheckPort("--grpc-listen", taken);
  close(listener);
  const Finding first = CheckPort("--grpc-listen", taken);
  const Finding second = CheckPort("--grpc-listen", taken);
  const int next = socket(AF_INET, SOCK_STREAM, 0);
  const int bound = bind(next, reinterpret_cast<sockaddr*>(&address), size);
  close(next);
  // Then it is taken at first, and free from then on, for anybody.
  EXPECT_EQ(bound, 0);
  EXPECT_EQ(busy.level, Level::kFail);
  EXPECT_THAT(busy.text, HasSubstr("--grpc-listen " + taken + " is in use"));
  EXPECT_EQ(first.level, Level::kPass) << first.text;
  EXPECT_EQ(second.level, Level::kPass) << second.text;
}

TEST(CheckPortTest, AnAddressOfAnotherMachineFails) {
  EXPECT_EQ(CheckPort("--http-listen", "192.0.2.1:8080").level, Level::kFail);
  EXPECT_EQ(CheckPort("--http-listen", "no.such.host.invalid:8080").level, Level::kFail);
  EXPECT_EQ(CheckPort("--http-listen", "[::1]:0").name, "http port");
}

TEST(CheckFileSystemTest, ALocalDirectoryPassesAndAMissingOneCanNotBeTold) {
  EXPECT_EQ(CheckFileSystem("/proc")->level, Level::kPass);
  EXPECT_FALSE(CheckFileSystem("/no/such/directory").has_value());
}

TEST(FindingsTest, EveryFindingIsShownAndCounted) {
  const std::vector<Finding> findings = {
      {.name = "one", .text = "well"},
      {.level = Level::kWarn, .name = "two", .text = "so so", .advice = "mend it"},
      {.level = Level::kFail, .name = "three", .text = "bad", .advice = "change it"}};
  const std::string text = FindingsText(findings, {});
  EXPECT_THAT(text, HasSubstr("PASS  one         well\n"));
  EXPECT_THAT(text, HasSubstr("-> mend it\n"));
  EXPECT_THAT(text, HasSubstr("FAIL  three       bad\n"));
  EXPECT_THAT(text, HasSubstr("1 passed, 1 to look at, 1 failed"));
  EXPECT_THAT(text, Not(HasSubstr("\033")));
  EXPECT_THAT(FindingsText(findings, {.interactive = true, .colors = true}),
              HasSubstr("\033[31mFAIL"));
  const auto json = nlohmann::json::parse(FindingsJson(findings));
  EXPECT_EQ(json["failures"], 1);
  EXPECT_EQ(json["findings"][1]["level"], "WARN");
  EXPECT_EQ(json["findings"][2]["advice"], "change it");
  EXPECT_TRUE(AnyFailed(findings));
  EXPECT_FALSE(AnyFailed({findings[0], findings[1]}));
}

}  // namespace
}  // namespace tandem::server
