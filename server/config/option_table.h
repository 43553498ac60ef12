// The one table of options: flags, environment variables, TOML keys, --help and the documentation
// are all made from it.
//
// A setting "max-slots" is the flag --max-slots, the variable TANDEM_MAX_SLOTS and the TOML key
// max_slots. An argument (what to do this once, such as --prompt) is a flag only.
// Not here  how the values of several sources are put together (resolve.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "server/config/settings.h"

namespace tandem::server {

enum class Verb : unsigned {
  kServe,
  kChat,
  kRun,
  kInspect,
  kBenchModel,
  kBenchAccept,
  kBenchServe,
  kBenchKv,
  kBenchKvQuality,
  kBenchKernels,
  kDoctor,
  kHealth,
  kConfig,
  kCompletions
};

struct VerbSpec {
  Verb verb;
  std::string_view name;             // as typed: "bench model"
  std::string_view argument;         // of the usage line: "[MODEL]"
  std::string_view argument_option;  // the option that a word without a flag is for; empty: none
  std::string_view help;
};
std::span<const VerbSpec> Verbs();
const VerbSpec& Describe(Verb verb);
std::string_view FamilyOf(const VerbSpec& verb);  // "bench" of "bench model"; else empty
std::string_view MemberOf(const VerbSpec& verb);  // "model" of "bench model"; else the name

enum class Group {
  kCommand,
  kLoad,
  kWorkload,
  kReport,
  kModel,
  kHardware,
  kScheduling,
  kKvCache,
  kSpeculation,
  kRequests,
  kNetwork,
  kLogging
};
std::span<const Group> Groups();  // in the order of --help
std::string_view GroupName(Group group);

// Where an option's value is stored; its type is the option's type.
using Target =
    std::variant<int*, double*, uint64_t*, bool*, std::string*, MemoryAmount*, std::optional<int>*,
                 std::optional<double>*, std::optional<uint64_t>*, std::optional<std::string>*,
                 std::vector<int>*, std::vector<std::string>*>;

struct OptionSpec {
  std::string_view name;  // of the long flag, without dashes
  char letter = 0;        // of the short flag; 0: none
  Group group = Group::kCommand;
  unsigned verbs = 0;            // bit Bit(verb) for each verb that takes it
  bool is_setting = true;        // also in the environment and (but for --config) in the TOML file
  bool is_common = true;         // shown by --help; the others by --help-all
  int words = 1;                 // that follow the flag; above 1 only for lists of text
  std::string_view placeholder;  // "N", "DIR"; for choices, made from them
  Target (*target)(Settings&) = nullptr;  // also yields the default, from Settings{}
  double min = 0.0;                       // of numbers and of each number of a list
  double max = 0.0;
  std::vector<std::string_view> choices;              // empty: any
  absl::Status (*check)(std::string_view) = nullptr;  // of strings and of each string of a list
  std::string_view unset;   // what a default that is empty or 0 means: "every CPU"
  std::string_view help;    // one line of --help
  std::string_view detail;  // further sentences for --help-all and the documentation
};

constexpr unsigned Bit(Verb verb) { return 1u << static_cast<unsigned>(verb); }
constexpr bool Takes(const OptionSpec& option, Verb verb) { return option.verbs & Bit(verb); }

// All options, in the order of --help. A setting's name occurs once; two verbs may each have an
// argument of the same name.
std::span<const OptionSpec> Options();
const OptionSpec* FindSetting(std::string_view name);            // null: none
const OptionSpec* FindOption(Verb verb, std::string_view name);  // null: none

std::string FlagName(const OptionSpec& option);         // "--max-slots"
std::string EnvironmentName(const OptionSpec& option);  // "TANDEM_MAX_SLOTS"
std::string TomlKey(const OptionSpec& option);          // "max_slots"

// "HOST:PORT" with a port in 0..65535; an IPv6 host in brackets. Errors say what is wrong.
absl::Status CheckAddress(std::string_view text);

}  // namespace tandem::server
