// Every planted bug is found, in every schedule, with the line it is on; without it nothing is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

namespace tandem::kernels {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAsan = true;
#else
constexpr bool kAsan = false;
#endif
#if defined(__SANITIZE_THREAD__)
constexpr bool kTsan = true;
#else
constexpr bool kTsan = false;
#endif

constexpr const char* kSchedules[] = {"forward", "reverse", "7"};

// How a planted bug shows.
enum Shows : unsigned {
  kError = 1,   // the emulator's error names the line
  kWrong = 2,   // the result is wrong or NaN
  kMemory = 4,  // AddressSanitizer or UndefinedBehaviorSanitizer names the line
  kRace = 8,    // ThreadSanitizer names the line
};

struct Bug {
  std::string name;
  unsigned shows;
};

void PrintTo(const Bug& bug, std::ostream* os) { *os << bug.name; }

// Output of the planted-bugs program, errors included.
std::string RunPlanted(const std::string& arguments) {
  const std::string command =
      "TSAN_OPTIONS=halt_on_error=0 ASAN_OPTIONS=detect_leaks=0 " TANDEM_PLANTED_BUGS " " +
      arguments + " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return "popen failed";
  std::string output;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof(buffer), pipe)) > 0;) output.append(buffer, n);
  pclose(pipe);
  return output;
}

// "planted_bugs.cu:N" of every line marked for `name`.
std::vector<std::string> MarkedLines(const std::string& name) {
  std::ifstream source(TANDEM_SOURCE_DIR "/tests/emu/planted_bugs.cu");
  std::vector<std::string> places;
  int number = 0;
  for (std::string line; std::getline(source, line);) {
    ++number;
    if (line.ends_with("// PLANTED " + name)) {
      places.push_back("planted_bugs.cu:" + std::to_string(number));
    }
  }
  return places;
}

bool NamesOneOf(const std::string& output, const std::vector<std::string>& places) {
  for (const std::string& place : places) {
    const size_t at = output.find(place);
    if (at != std::string::npos && !isdigit(output[at + place.size()])) return true;
  }
  return false;
}

class PlantedBugTest : public testing::TestWithParam<Bug> {};

TEST_P(PlantedBugTest, IsFoundInEverySchedule) {
  const Bug& bug = GetParam();
  const unsigned possible =
      bug.shows & (kError | kWrong | (kAsan ? kMemory : 0u) | (kTsan ? kRace : 0u));
  if (possible == 0) GTEST_SKIP() << "only a sanitizer finds it: presets asan and tsan";
  const std::vector<std::string> places = MarkedLines(bug.name);
  for (const char* schedule : kSchedules) {
    const std::string output = RunPlanted(bug.name + " planted " + schedule);
    SCOPED_TRACE(output);
    if ((possible & kError) != 0) {
      EXPECT_THAT(output, testing::HasSubstr("error: "));
      EXPECT_TRUE(NamesOneOf(output.substr(output.find("error: ")), places));
    }
    if ((possible & kWrong) != 0 && !(kAsan && (bug.shows & kMemory) != 0)) {
      EXPECT_THAT(output, testing::HasSubstr("wrong result"));
    }
    if ((possible & kMemory) != 0) {
      EXPECT_THAT(output,
                  testing::AnyOf(testing::HasSubstr("AddressSanitizer: heap-buffer-overflow"),
                                 testing::HasSubstr("runtime error: index")));
      EXPECT_TRUE(NamesOneOf(output, places));
    }
    if ((possible & kRace) != 0) {
      EXPECT_THAT(output, testing::HasSubstr("ThreadSanitizer: data race"));
      EXPECT_TRUE(NamesOneOf(output, places));
    } else {
      EXPECT_THAT(output, testing::Not(testing::HasSubstr("ThreadSanitizer")));
    }
  }
}

TEST_P(PlantedBugTest, IsNotSeenWhereItIsFixed) {
  EXPECT_EQ(RunPlanted(GetParam().name + " fixed forward reverse 7"),
            "right result\nright result\nright result\n");
}

// What a write past the end does without AddressSanitizer is not asked.
INSTANTIATE_TEST_SUITE_P(
    Bugs, PlantedBugTest,
    testing::Values(Bug{"barrier-after-write", kWrong | kRace},
                    Bug{"barrier-before-reuse", kWrong | kRace}, Bug{"copy-wait", kError},
                    Bug{"weak-copy-wait", kWrong | kRace},
                    Bug{"barrier-before-copy", kWrong | kRace}, Bug{"static-overrun", kMemory},
                    Bug{"dynamic-overrun", kMemory}, Bug{"divergent-barrier", kError},
                    Bug{"abandoned-barrier", kError}, Bug{"divergent-shuffle", kError},
                    Bug{"wrong-mask", kError}, Bug{"copies-in-flight", kError},
                    Bug{"uninitialised-shared", kWrong}, Bug{"lock-step", kWrong | kRace},
                    Bug{"shared-race", kRace}, Bug{"block-race", kRace}),
    [](const testing::TestParamInfo<Bug>& info) {
      std::string name = info.param.name;
      for (char& c : name) c = c == '-' ? '_' : c;
      return name;
    });

}  // namespace
}  // namespace tandem::kernels
