#include "server/cli/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace tandem::server {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

constexpr uint64_t kGiB = uint64_t{1} << 30;

TEST(ProgressBarTest, ItShowsShareBytesRateAndTimeLeft) {
  const Terminal terminal = {.interactive = true, .utf8 = false, .columns = 79};
  const std::string bar = ProgressBar(2 * kGiB, 8 * kGiB, 4.0, terminal);
  EXPECT_THAT(bar, AllOf(HasSubstr(" 25 %"), HasSubstr("2.0/8.0 GiB"), HasSubstr("512.0 MiB/s"),
                         HasSubstr("eta 12 s")));
  EXPECT_LE(bar.size(), 79u);
  EXPECT_THAT(ProgressBar(0, 8 * kGiB, 0.0, terminal), HasSubstr("eta ? s"));
  EXPECT_THAT(ProgressBar(8 * kGiB, 8 * kGiB, 9.0, terminal),
              AllOf(HasSubstr("100 %"), Not(HasSubstr("."
                                                      "."))));
}

TEST(ProgressBarTest, ANarrowTerminalStillGetsTheNumbers) {
  const Terminal terminal = {.interactive = true, .utf8 = true, .columns = 10};
  EXPECT_THAT(ProgressBar(kGiB, 2 * kGiB, 1.0, terminal),
              AllOf(HasSubstr("50 %"), Not(HasSubstr("█"))));
}

TEST(ProgressBarTest, NothingToLoadIsComplete) {
  EXPECT_THAT(ProgressBar(0, 0, 0.0, {}), HasSubstr("100 %"));
}

// A clock that is set by hand, and everything that was written.
struct Recorder {
  double now_s = 0.0;
  std::vector<std::string> written;

  Progress Start(const Terminal& terminal) {
    return Progress(
        terminal, [this](std::string_view text) { written.emplace_back(text); },
        [this] { return now_s; });
  }
};

TEST(ProgressTest, OnATerminalOneLineIsRedrawnAtMostEveryTenthOfASecond) {
  Recorder recorder;
  Progress progress = recorder.Start({.interactive = true});
  progress.Update(0, 100);
  recorder.now_s = 0.05;
  progress.Update(10, 100);  // too early
  recorder.now_s = 0.15;
  progress.Update(20, 100);
  progress.Update(100, 100);  // the end is always drawn
  EXPECT_THAT(recorder.written,
              ElementsAre(HasSubstr("  0 %"), HasSubstr(" 20 %"), HasSubstr("100 %")));
  for (const std::string& text : recorder.written) EXPECT_THAT(text, StartsWith("\r"));
  progress.Clear();
  EXPECT_THAT(recorder.written.back(), Not(HasSubstr("%")));
  EXPECT_THAT(recorder.written, SizeIs(4));
}

TEST(ProgressTest, ElsewhereThereIsALineForEachTenthThatTookASecond) {
  Recorder recorder;
  Progress progress = recorder.Start({.interactive = false});
  progress.Update(50, 1000);
  recorder.now_s = 0.5;
  progress.Update(200, 1000);  // within the first second
  recorder.now_s = 2.0;
  progress.Update(390, 1000);
  recorder.now_s = 4.0;
  progress.Update(399, 1000);  // still the fourth tenth
  progress.Update(1000, 1000);
  progress.Clear();
  EXPECT_THAT(recorder.written,
              ElementsAre(AllOf(StartsWith("loading: percent=39 "), HasSubstr("bytes_per_s=195 ")),
                          StartsWith("loading: percent=100 ")));
}

TEST(ProgressTest, AQuickLoadIsNotWorthALine) {
  Recorder recorder;
  Progress progress = recorder.Start({.interactive = false});
  recorder.now_s = 0.3;
  progress.Update(1000, 1000);
  EXPECT_THAT(recorder.written, IsEmpty());
}

}  // namespace
}  // namespace tandem::server
