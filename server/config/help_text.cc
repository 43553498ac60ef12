#include "server/config/help_text.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "server/config/option_value.h"

namespace tandem::server {
namespace {

constexpr size_t kColumns = 100;
constexpr int kFlagColumns = 27;
constexpr int kHelpColumns = 44;

constexpr std::string_view kSources =
    "Flags win over environment variables, these over the TOML file of --config (max_slots = "
    "16).\n";

std::string Str(std::string_view text) { return std::string(text); }

// "-m, --model DIR"
std::string FlagUsage(const OptionSpec& option) {
  std::string text = option.letter != 0 ? std::string("-") + option.letter + ", " : "    ";
  text += FlagName(option);
  if (!option.placeholder.empty()) text += " " + Str(option.placeholder);
  return text;
}

bool HasEnvironment(const OptionSpec& option) { return option.is_setting; }

// "      --max-slots N           sequences running at the same time [16]      TANDEM_MAX_SLOTS"
std::string HelpLine(const OptionSpec& option) {
  std::string help = Str(option.help);
  const std::string value = DefaultText(option);
  if (!value.empty()) help += " [" + value + "]";
  std::string line =
      absl::StrFormat("  %-*s %-*s", kFlagColumns, FlagUsage(option), kHelpColumns, help);
  if (HasEnvironment(option)) line += " " + EnvironmentName(option);
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

// `text` in lines of at most kColumns that begin with `indent` blanks.
std::string Wrapped(std::string_view text, size_t indent) {
  std::string lines;
  std::string line;
  for (const auto& part : absl::StrSplit(absl::string_view(text.data(), text.size()), ' ')) {
    const std::string word(part);
    if (!line.empty() && indent + line.size() + 1 + word.size() > kColumns) {
      lines += std::string(indent, ' ') + line + "\n";
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  return lines + std::string(indent, ' ') + line + "\n";
}

std::string AllowedText(const OptionSpec& option) {
  if (!option.choices.empty()) {
    return absl::StrJoin(std::vector<std::string>(option.choices.begin(), option.choices.end()),
                         "|");
  }
  if (option.min == 0 && option.max == 0) return "";
  if (!IsNumber(option)) return "";
  const auto number = [](double x) { return absl::StrFormat("%.10g", x); };
  if (option.max >= 2147483647.0) return number(option.min) + "..";
  return number(option.min) + ".." + number(option.max);
}

std::string LongHelp(const OptionSpec& option) {
  std::vector<std::string> facts;
  if (const std::string allowed = AllowedText(option); !allowed.empty()) facts.push_back(allowed);
  if (const std::string value = DefaultText(option); !value.empty()) {
    facts.push_back("default: " + value);
  }
  if (HasEnvironment(option)) facts.push_back(EnvironmentName(option));
  std::string text = absl::StrFormat("  %-36s", FlagUsage(option)) + absl::StrJoin(facts, "  ");
  text.erase(text.find_last_not_of(' ') + 1);
  text += "\n";
  std::string sentence = Str(option.help) + ".";
  if (!option.detail.empty()) sentence += " " + Str(option.detail);
  return text + Wrapped(sentence, 6);
}

template <typename Line>
std::string Grouped(Verb verb, bool only_common, const Line& line) {
  std::string text;
  for (const Group group : Groups()) {
    std::string lines;
    for (const OptionSpec& option : Options()) {
      if (option.group != group || !Takes(option, verb)) continue;
      if (only_common && !option.is_common) continue;
      lines += line(option);
    }
    if (!lines.empty()) text += Str(GroupName(group)) + "\n" + lines;
  }
  return text;
}

std::string Usage(const VerbSpec& verb) {
  std::string words = "Usage: tandem " + Str(verb.name);
  if (!verb.argument.empty()) words += " " + Str(verb.argument);
  return words + " [OPTIONS]    " + Str(verb.help) + "\n";
}

// What the options of a verb do not say.
std::string_view Notes(Verb verb) {
  switch (verb) {
    case Verb::kChat:
      return "Lines that begin with / are commands; /help lists them. Ctrl-C stops an answer, "
             "Ctrl-D "
             "leaves.\nWithout a terminal every line of standard input is a message, and only the "
             "answers are printed.\n";
    case Verb::kDoctor:
      return "Give it the options of `tandem serve` that are to be checked. Exit status 1: a check "
             "failed.\n";
    case Verb::kHealth:
      return "Exit status: 0 serving, 1 not serving or no answer.\n";
    case Verb::kCompletions:
      return "In ~/.bashrc:    source <(tandem completions bash)\n"
             "In ~/.zshrc:     source <(tandem completions zsh), after compinit\n"
             "For fish, once:  tandem completions fish > ~/.config/fish/completions/tandem.fish\n";
    default:
      return "";
  }
}

// Where settings come from, for a verb that takes any but --config.
std::string SourcesOf(Verb verb) {
  const bool any = std::any_of(Options().begin(), Options().end(), [&](const OptionSpec& option) {
    return Takes(option, verb) && option.is_setting && option.name != "config";
  });
  return any ? Str(kSources) : "";
}

bool HasRareOptions(Verb verb) {
  return std::any_of(Options().begin(), Options().end(), [&](const OptionSpec& option) {
    return Takes(option, verb) && !option.is_common;
  });
}

// A table row's cell: a bar would end it.
std::string Cell(std::string_view text) {
  return absl::StrJoin(absl::StrSplit(absl::string_view(text.data(), text.size()), '|'), " \\| ");
}

std::string Code(const std::string& text) { return "`" + text + "`"; }

std::string PageRow(const OptionSpec& option) {
  std::string flag =
      Code(FlagName(option) + (option.placeholder.empty() ? "" : " " + Str(option.placeholder)));
  if (option.letter != 0) flag += std::string(", `-") + option.letter + "`";
  std::string meaning = Str(option.help);
  if (!option.detail.empty()) meaning += ". " + Str(option.detail);
  std::string row = "| " + flag + " | ";
  if (option.is_setting) row += Code(EnvironmentName(option)) + " | ";
  return row + DefaultText(option) + " | " + Cell(AllowedText(option)) + " | " + Cell(meaning) +
         " |\n";
}

}  // namespace

std::string ProgramHelp() {
  std::string text =
      "Tandem serves Gemma 4 language models over gRPC.\n\n"
      "Usage: tandem COMMAND [OPTIONS]\n\n";
  for (const VerbSpec& verb : Verbs()) {
    text += absl::StrFormat("  %-14s %s\n", Str(verb.name), Str(verb.help));
  }
  text += "\n  tandem COMMAND --help     the options of a command\n";
  text += "  tandem --version          version, commit, compiler, instruction sets\n\n";
  text +=
      "Examples, with the demo model unless --model names another:\n\n"
      "  tandem chat                                  talk to it in this terminal\n"
      "  tandem serve --model DIR                     gRPC on 50051, metrics and probes on 8080\n"
      "  tandem run -p \"Tell me a story about a fox.\"\n"
      "  tandem doctor --model DIR                    would it run here?\n\n";
  text += "Exit status: 0 done, 1 failed, 2 the command line or a setting is wrong.\n";
  return text;
}

std::string FamilyHelp(std::string_view family) {
  std::string text = "Usage: tandem " + Str(family) + " COMMAND [OPTIONS]\n\n";
  for (const VerbSpec& verb : Verbs()) {
    if (FamilyOf(verb) == family) {
      text += absl::StrFormat("  %-14s %s\n", Str(MemberOf(verb)), Str(verb.help));
    }
  }
  return text + "\n  tandem " + Str(family) + " COMMAND --help     the options of a command\n";
}

std::string VerbHelp(Verb verb) {
  std::string text = Usage(Describe(verb));
  if (verb == Verb::kConfig) {
    return text +
           Grouped(verb, true,
                   [](const OptionSpec& option) {
                     return option.group == Group::kCommand ? HelpLine(option) : std::string();
                   }) +
           "All settings of the other commands are taken too.\n";
  }
  text += Grouped(verb, /*only_common=*/true, HelpLine);
  text += Str(Notes(verb)) + SourcesOf(verb);
  if (HasRareOptions(verb)) text += "More options, ranges and details: --help-all\n";
  return text;
}

std::string VerbHelpAll(Verb verb) {
  return Usage(Describe(verb)) + Grouped(verb, /*only_common=*/false, LongHelp) + Str(Notes(verb)) +
         SourcesOf(verb);
}

std::string OptionsPage() {
  std::string page =
      "# Options\n\n"
      "Made from the option table by `tandem config --docs`; a test keeps it equal.\n\n"
      "A setting `--max-slots` is the environment variable `TANDEM_MAX_SLOTS` and the TOML key\n"
      "`max_slots`. Flags win over the environment, the environment over the TOML file of\n"
      "`--config`, the file over the defaults. `tandem config` prints what is in force.\n"
      "Exit status: 0 done, 1 failed, 2 the command line or a setting is wrong.\n\n"
      "## Commands\n\n| command | what it does | settings it takes |\n| --- | --- | --- |\n";
  for (const VerbSpec& verb : Verbs()) {
    std::vector<std::string> names;
    for (const OptionSpec& option : Options()) {
      if (option.is_setting && Takes(option, verb.verb)) names.push_back(Code(Str(option.name)));
    }
    std::string words = "tandem " + Str(verb.name);
    if (!verb.argument.empty()) words += " " + Str(verb.argument);
    page += absl::StrFormat("| %s | %s | %s |\n", Code(words), Str(verb.help),
                            verb.verb == Verb::kConfig ? "all" : absl::StrJoin(names, " "));
  }
  page += "\n## Settings\n";
  for (const Group group : Groups()) {
    std::string rows;
    for (const OptionSpec& option : Options()) {
      if (option.is_setting && option.group == group) rows += PageRow(option);
    }
    if (rows.empty()) continue;
    if (group != Group::kCommand) page += "\n### " + Str(GroupName(group)) + "\n";
    page +=
        "\n| flag | environment | default | values | meaning |\n| --- | --- | --- | --- | --- |\n";
    page += rows;
  }
  page += "\n## Arguments\n\nThese are flags only.\n";
  for (const VerbSpec& verb : Verbs()) {
    std::string rows;
    for (const OptionSpec& option : Options()) {
      if (!option.is_setting && Takes(option, verb.verb)) rows += PageRow(option);
    }
    if (rows.empty()) continue;
    page += "\n### tandem " + Str(verb.name) + "\n";
    page += "\n| flag | default | values | meaning |\n| --- | --- | --- | --- |\n" + rows;
  }
  return page;
}

std::string SettingsToml(const Invocation& invocation) {
  std::string text;
  for (const Group group : Groups()) {
    std::string lines;
    for (const OptionSpec& option : Options()) {
      if (!option.is_setting || option.name == "config" || option.group != group) continue;
      const auto given = invocation.given.find(Str(option.name));
      const bool is_default = given == invocation.given.end();
      std::string line = absl::StrFormat("%s%s = %s", is_default ? "# " : "", TomlKey(option),
                                         ValueToml(option, invocation.settings));
      const std::string note = is_default ? Str(option.help) : "from " + given->second;
      lines += absl::StrFormat("%-48s  # %s\n", line, note);
    }
    if (!lines.empty()) {
      text += absl::StrFormat("%s# %s\n%s", text.empty() ? "" : "\n", Str(GroupName(group)), lines);
    }
  }
  return text;
}

}  // namespace tandem::server
