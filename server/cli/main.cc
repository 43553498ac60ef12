// The program `tandem`: settings from flags, environment and file, then one command.
//
// Only here is the environment read. Exit status: 0 done, 1 failed, 2 usage.

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "server/cli/built_devices.h"
#include "server/cli/completions.h"
#include "server/cli/log_setup.h"
#include "server/cli/terminal.h"
#include "server/cli/verbs.h"
#include "server/cli/version.h"
#include "server/config/help_text.h"
#include "server/config/resolve.h"

namespace tandem::server {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

Environment ReadEnvironment() {
  Environment environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string::npos) environment[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return environment;
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError("cannot read the file " + path);
  }
  return text.str();
}

void Print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void PrintError(const absl::Status& status) {
  std::fprintf(stderr, "tandem: %s\n", std::string(status.message()).c_str());
}

std::string CompletionsOf(const std::string& shell) {
  if (shell == "bash") return BashCompletions();
  return shell == "zsh" ? ZshCompletions() : FishCompletions();
}

// As typed, quoted where a shell needs it.
std::string CommandText(const std::vector<std::string>& words) {
  std::string text = "tandem";
  for (const std::string& word : words) {
    const bool plain = !word.empty() && word.find_first_of(" \t\n'\"\\$*?;&|<>()`#") == word.npos;
    text += plain ? " " + word : " '" + absl::StrReplaceAll(word, {{"'", "'\\''"}}) + "'";
  }
  return text;
}

int Main(const std::vector<std::string>& words) {
  const Environment environment = ReadEnvironment();
  const absl::StatusOr<Invocation> invocation = Resolve(words, environment, ReadTextFile);
  if (!invocation.ok()) {
    PrintError(invocation.status());
    return kUsage;
  }
  switch (invocation->action) {
    case CommandLine::Action::kVersion:
      Print(VersionText());
      return 0;
    case CommandLine::Action::kHelp:
      if (invocation->verb.has_value()) {
        Print(VerbHelp(*invocation->verb));
      } else {
        Print(invocation->family.empty() ? ProgramHelp() : FamilyHelp(invocation->family));
      }
      return 0;
    case CommandLine::Action::kHelpAll:
      Print(VerbHelpAll(*invocation->verb));
      return 0;
    case CommandLine::Action::kRun:
      break;
  }
  const Settings& settings = invocation->settings;
  const bool serves = invocation->verb == Verb::kServe;
  const Terminal terminal = LookAtTerminal(STDERR_FILENO, environment);
  SetUpLogging(serves ? settings.log_format : "text", serves ? settings.log_level : "info",
               terminal);
  for (const std::string& warning : invocation->warnings) spdlog::warn("{}", warning);
  absl::Status status;
  switch (*invocation->verb) {
    case Verb::kServe:
      status = Serve(settings, terminal);
      break;
    case Verb::kChat: {
      const absl::StatusOr<int> exit_status =
          Chat(settings, terminal, LookAtTerminal(STDOUT_FILENO, environment));
      if (exit_status.ok()) return *exit_status;
      status = exit_status.status();
      break;
    }
    case Verb::kRun: {
      const absl::StatusOr<int> exit_status = RunOnce(settings, terminal);
      if (exit_status.ok()) return *exit_status;
      status = exit_status.status();
      break;
    }
    case Verb::kInspect:
      status = Inspect(settings);
      break;
    case Verb::kBenchModel:
      status = BenchModel(settings, terminal, CommandText(words));
      break;
    case Verb::kBenchAccept:
      status = BenchAccept(settings, terminal, CommandText(words));
      break;
    case Verb::kBenchServe: {
      const absl::StatusOr<int> exit_status = BenchServe(settings, terminal, CommandText(words));
      if (exit_status.ok()) return *exit_status;
      status = exit_status.status();
      break;
    }
    case Verb::kBenchKv:
      status = BenchKv(settings, terminal, CommandText(words));
      break;
    case Verb::kBenchKvQuality:
      status = BenchKvQuality(settings, terminal, CommandText(words));
      break;
    case Verb::kBenchKernels:
      status = BenchKernels(settings, terminal, CommandText(words));
      break;
    case Verb::kDoctor:
      return Doctor(settings, LookAtTerminal(STDOUT_FILENO, environment), CudaLibraries());
    case Verb::kHealth: {
      const absl::StatusOr<int> exit_status = Health(settings);
      if (exit_status.ok()) return *exit_status;
      status = exit_status.status();
      break;
    }
    case Verb::kCompletions:
      if (settings.shell.empty()) {
        PrintError(absl::InvalidArgumentError(
            "`tandem completions` needs the name of a shell: bash, zsh or fish"));
        return kUsage;
      }
      Print(CompletionsOf(settings.shell));
      break;
    case Verb::kConfig:
      Print(settings.docs ? OptionsPage() : SettingsToml(*invocation));
      break;
  }
  if (status.ok()) return 0;
  if (serves && !terminal.interactive) {
    spdlog::error("{}",
                  std::string(status.message()));  // whoever collects the log wants it as well
  } else {
    PrintError(status);
  }
  return kFailed;
}

}  // namespace
}  // namespace tandem::server

int main(int argc, char** argv) {
  return tandem::server::Main(std::vector<std::string>(argv + 1, argv + argc));
}
