#include "server/config/option_table.h"

#include <array>
#include <cctype>
#include <charconv>

#include "absl/strings/str_format.h"
#include "server/config/argument_options.h"
#include "server/config/bench_kernels_options.h"
#include "server/config/bench_kv_options.h"
#include "server/config/bench_model_options.h"
#include "server/config/bench_serve_options.h"
#include "server/config/setting_options.h"

namespace tandem::server {
namespace {

std::vector<OptionSpec> MakeOptions() {
  std::vector<OptionSpec> options;
  for (const auto& more :
       {ArgumentOptions(), SettingOptions(), BenchCompareOptions(), BenchAcceptOptions(),
        BenchServeOptions(), BenchKvOptions(), BenchKvQualityOptions(), BenchKernelsOptions()}) {
    options.insert(options.end(), more.begin(), more.end());
  }
  return options;
}

std::string Spelled(std::string_view name, char separator, bool upper) {
  std::string text(name);
  for (char& c : text) {
    if (c == '-') c = separator;
    if (upper) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  }
  return text;
}

}  // namespace

std::span<const VerbSpec> Verbs() {
  static constexpr std::array<VerbSpec, 14> kVerbs = {{
      {Verb::kServe, "serve", "", "", "serve a model over gRPC, with metrics and probes over HTTP"},
      {Verb::kChat, "chat", "", "", "talk to a model in this terminal, or to a server"},
      {Verb::kRun, "run", "", "", "answer one prompt and exit"},
      {Verb::kInspect, "inspect", "[MODEL]", "model",
       "show what a checkpoint holds and what fits in memory"},
      {Verb::kBenchModel, "bench model", "", "",
       "measure prompt and generation speed on this machine"},
      {Verb::kBenchAccept, "bench accept", "", "",
       "show how many guesses hold and how their number is chosen"},
      {Verb::kBenchServe, "bench serve", "", "",
       "measure a server under load, as its clients see it"},
      {Verb::kBenchKv, "bench kv", "", "", "measure what KV formats save and what they cost"},
      {Verb::kBenchKvQuality, "bench kv-quality", "", "",
       "measure how far KV formats move a model's words"},
      {Verb::kBenchKernels, "bench kernels", "", "",
       "measure operations against the memory's bandwidth"},
      {Verb::kDoctor, "doctor", "", "", "check machine, model, memory and ports before serving"},
      {Verb::kHealth, "health", "", "", "ask a server whether it is ready; exit status 0 or 1"},
      {Verb::kConfig, "config", "", "", "print the settings in force as a TOML file"},
      {Verb::kCompletions, "completions", "SHELL", "shell",
       "print the script that completes commands in a shell"},
  }};
  return kVerbs;
}

const VerbSpec& Describe(Verb verb) { return Verbs()[static_cast<size_t>(verb)]; }

std::string_view FamilyOf(const VerbSpec& verb) {
  const size_t blank = verb.name.find(' ');
  return blank == std::string_view::npos ? std::string_view() : verb.name.substr(0, blank);
}

std::string_view MemberOf(const VerbSpec& verb) {
  const size_t blank = verb.name.find(' ');
  return blank == std::string_view::npos ? verb.name : verb.name.substr(blank + 1);
}

std::span<const Group> Groups() {
  static constexpr std::array<Group, 12> kGroups = {
      Group::kCommand,     Group::kLoad,     Group::kWorkload,   Group::kReport,
      Group::kModel,       Group::kHardware, Group::kScheduling, Group::kKvCache,
      Group::kSpeculation, Group::kRequests, Group::kNetwork,    Group::kLogging};
  return kGroups;
}

std::string_view GroupName(Group group) {
  static constexpr std::array<std::string_view, 12> kNames = {
      "Command",    "Load",     "Workload",    "Report",   "Model",   "Hardware",
      "Scheduling", "KV cache", "Speculation", "Requests", "Network", "Logging"};
  return kNames[static_cast<size_t>(group)];
}

std::span<const OptionSpec> Options() {
  static const std::vector<OptionSpec>* const options = new std::vector<OptionSpec>(MakeOptions());
  return *options;
}

const OptionSpec* FindSetting(std::string_view name) {
  for (const OptionSpec& option : Options()) {
    if (option.is_setting && option.name == name) return &option;
  }
  return nullptr;
}

const OptionSpec* FindOption(Verb verb, std::string_view name) {
  for (const OptionSpec& option : Options()) {
    if (Takes(option, verb) && option.name == name) return &option;
  }
  return nullptr;
}

std::string FlagName(const OptionSpec& option) { return "--" + std::string(option.name); }

std::string EnvironmentName(const OptionSpec& option) {
  return "TANDEM_" + Spelled(option.name, '_', true);
}

std::string TomlKey(const OptionSpec& option) { return Spelled(option.name, '_', false); }

absl::Status CheckAddress(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) {
    return absl::InvalidArgumentError("HOST:PORT is expected, such as 0.0.0.0:50051");
  }
  const std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (host.empty()) {
    return absl::InvalidArgumentError("the host is missing; 0.0.0.0 listens on every interface");
  }
  if (host.find(':') != std::string_view::npos && !bracketed) {
    return absl::InvalidArgumentError("an IPv6 host stands in brackets: [::]:50051");
  }
  int number = -1;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size() || number < 0 || number > 65535) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the port is '%s'; the range is 0 to 65535 (0: any free port)", std::string(port)));
  }
  return absl::OkStatus();
}

}  // namespace tandem::server
