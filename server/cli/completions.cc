#include "server/cli/completions.h"

#include <string_view>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "server/config/option_table.h"
#include "server/config/option_value.h"

namespace tandem::server {
namespace {

std::string Str(std::string_view text) { return std::string(text); }

// What can stand behind a flag.
enum class ValueKind { kNone, kChoices, kDirectory, kFile, kOther };

ValueKind KindOf(const OptionSpec& option) {
  if (IsSwitch(option)) return ValueKind::kNone;
  if (!option.choices.empty()) return ValueKind::kChoices;
  if (option.placeholder == "DIR") return ValueKind::kDirectory;
  if (option.placeholder == "FILE") return ValueKind::kFile;
  return ValueKind::kOther;
}

std::string Choices(const OptionSpec& option) {
  return absl::StrJoin(std::vector<std::string>(option.choices.begin(), option.choices.end()), " ");
}

std::vector<const OptionSpec*> OptionsOf(const VerbSpec& verb) {
  std::vector<const OptionSpec*> options;
  for (const OptionSpec& option : Options()) {
    if (Takes(option, verb.verb)) options.push_back(&option);
  }
  return options;
}

const OptionSpec* ArgumentOf(const VerbSpec& verb) {
  return verb.argument_option.empty() ? nullptr : FindOption(verb.verb, verb.argument_option);
}

// "--model", or "--model|-m".
std::string FlagWords(const OptionSpec& option, std::string_view separator) {
  std::string words = FlagName(option);
  if (option.letter != 0) words += Str(separator) + "-" + option.letter;
  return words;
}

// The first words of all verbs, each once, with the help of those that have no second.
struct FirstWord {
  std::string_view word;
  std::string help;
  bool family = false;
};

std::vector<FirstWord> FirstWords() {
  std::vector<FirstWord> words;
  for (const VerbSpec& verb : Verbs()) {
    const std::string_view family = FamilyOf(verb);
    if (family.empty()) {
      words.push_back({.word = verb.name, .help = Str(verb.help)});
    } else if (words.empty() || words.back().word != family) {
      words.push_back({.word = family, .help = "more commands", .family = true});
    }
  }
  return words;
}

std::vector<const VerbSpec*> MembersOf(std::string_view family) {
  std::vector<const VerbSpec*> members;
  for (const VerbSpec& verb : Verbs()) {
    if (FamilyOf(verb) == family) members.push_back(&verb);
  }
  return members;
}

// ---- bash ----

std::string BashValue(const OptionSpec& option) {
  switch (KindOf(option)) {
    case ValueKind::kChoices:
      return "kind=words words='" + Choices(option) + "'";
    case ValueKind::kDirectory:
      return "kind=directory";
    case ValueKind::kFile:
      return "kind=file";
    case ValueKind::kNone:
    case ValueKind::kOther:
      break;
  }
  return "kind=none";
}

std::string BashVerb(const VerbSpec& verb) {
  std::vector<std::string> flags = {"--help", "--help-all"};
  std::string values;
  for (const OptionSpec* option : OptionsOf(verb)) {
    flags.push_back(FlagWords(*option, " "));
    if (KindOf(*option) == ValueKind::kNone) continue;
    values += absl::StrFormat("        %s) %s ;;\n", FlagWords(*option, "|"), BashValue(*option));
  }
  if (const OptionSpec* const argument = ArgumentOf(verb)) {
    values += absl::StrFormat("        *) %s ;;\n", BashValue(*argument));
  }
  std::string text =
      absl::StrFormat("    '%s')\n      flags='%s'\n", Str(verb.name), absl::StrJoin(flags, " "));
  if (!values.empty()) text += "      case $previous in\n" + values + "      esac\n";
  return text + "      ;;\n";
}

// ---- zsh ----

// Fit for a specification of _arguments in single quotes.
std::string ZshHelp(std::string_view text) {
  return absl::StrReplaceAll(absl::string_view(text.data(), text.size()),
                             {{"'", "'\\''"}, {"[", "\\["}, {"]", "\\]"}, {":", "\\:"}});
}

std::string ZshValue(const OptionSpec& option) {
  const std::string name = ZshHelp(option.placeholder);
  switch (KindOf(option)) {
    case ValueKind::kNone:
      return "";
    case ValueKind::kChoices:
      return ":" + name + ":(" + Choices(option) + ")";
    case ValueKind::kDirectory:
      return ":" + name + ":_files -/";
    case ValueKind::kFile:
      return ":" + name + ":_files";
    case ValueKind::kOther:
      break;
  }
  return ":" + name + ": ";
}

std::string ZshVerb(const VerbSpec& verb, std::string_view indent) {
  std::string text = Str(indent) +
                     "_arguments '(-h --help)'{-h,--help}'[the common options]' \\\n" +
                     Str(indent) + "  '--help-all[every option with its details]'";
  for (const OptionSpec* option : OptionsOf(verb)) {
    const bool takes_value = KindOf(*option) != ValueKind::kNone;
    const std::string repeat = IsList(*option) ? "*" : "";
    const std::string rest = "[" + ZshHelp(option->help) + "]" + ZshValue(*option);
    text += absl::StrFormat(" \\\n%s  '%s%s%s%s'", Str(indent), repeat, FlagName(*option),
                            takes_value ? "=" : "", rest);
    if (option->letter == 0) continue;
    text += absl::StrFormat(" \\\n%s  '%s-%c%s'", Str(indent), repeat, option->letter, rest);
  }
  if (const OptionSpec* const argument = ArgumentOf(verb)) {
    text += absl::StrFormat(" \\\n%s  '1%s'", Str(indent), ZshValue(*argument));
  }
  return text + "\n";
}

std::string ZshList(std::string_view name, const std::vector<std::string>& entries) {
  return absl::StrFormat("  local -a %s=(\n    %s\n  )\n", Str(name),
                         absl::StrJoin(entries, "\n    "));
}

std::string ZshEntry(std::string_view word, std::string_view help) {
  return "'" + Str(word) + ":" +
         absl::StrReplaceAll(absl::string_view(help.data(), help.size()), {{"'", "'\\''"}}) + "'";
}

// ---- fish ----

std::string FishQuoted(std::string_view text) {
  return "'" +
         absl::StrReplaceAll(absl::string_view(text.data(), text.size()),
                             {{"\\", "\\\\"}, {"'", "\\'"}}) +
         "'";
}

std::string FishLine(const std::string& condition, const std::string& rest) {
  return "complete -c tandem -n " + FishQuoted(condition) + " " + rest + "\n";
}

std::string FishValue(const OptionSpec& option) {
  switch (KindOf(option)) {
    case ValueKind::kNone:
      return "";
    case ValueKind::kChoices:
      return " -x -a " + FishQuoted(Choices(option));
    case ValueKind::kDirectory:
      return " -x -a '(__fish_complete_directories)'";
    case ValueKind::kFile:
      return " -r -F";
    case ValueKind::kOther:
      break;
  }
  return " -x";
}

std::string FishCondition(const VerbSpec& verb) {
  const std::string_view family = FamilyOf(verb);
  const std::string member = "__fish_seen_subcommand_from " + Str(MemberOf(verb));
  if (family.empty()) return member;
  return "__fish_seen_subcommand_from " + Str(family) + "; and " + member;
}

std::string FishVerb(const VerbSpec& verb) {
  const std::string condition = FishCondition(verb);
  std::string text = FishLine(condition, "-s h -l help -d 'the common options'") +
                     FishLine(condition, "-l help-all -d 'every option with its details'");
  for (const OptionSpec* option : OptionsOf(verb)) {
    std::string rest;
    if (option->letter != 0) rest += std::string("-s ") + option->letter + " ";
    rest += "-l " + Str(option->name) + FishValue(*option) + " -d " + FishQuoted(option->help);
    text += FishLine(condition, rest);
  }
  if (const OptionSpec* const argument = ArgumentOf(verb)) {
    const std::string value = FishValue(*argument);
    text += FishLine(condition, value.substr(value.find("-a")));
  }
  return text;
}

}  // namespace

std::string BashCompletions() {
  std::vector<std::string> first_words = {"--help", "--version"};
  std::string families;
  std::string verbs;
  for (const FirstWord& first : FirstWords()) {
    first_words.push_back(Str(first.word));
    if (!first.family) continue;
    std::vector<std::string> members = {"--help"};
    for (const VerbSpec* verb : MembersOf(first.word)) members.push_back(Str(MemberOf(*verb)));
    families += absl::StrFormat(
        "  if [ \"$verb\" = %s ]; then\n"
        "    if [ \"$COMP_CWORD\" -eq 2 ]; then\n"
        "      COMPREPLY=($(compgen -W '%s' -- \"$current\"))\n"
        "      return\n"
        "    fi\n"
        "    verb=\"$verb ${COMP_WORDS[2]}\"\n"
        "  fi\n",
        Str(first.word), absl::StrJoin(members, " "));
  }
  for (const VerbSpec& verb : Verbs()) verbs += BashVerb(verb);
  return "# Completions of tandem for bash, made by `tandem completions bash`.\n"
         "_tandem() {\n"
         "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
         "  # --flag=value comes as three words.\n"
         "  if [ \"$current\" = = ]; then\n"
         "    current=\n"
         "  elif [ \"$previous\" = = ]; then\n"
         "    previous=${COMP_WORDS[COMP_CWORD-2]}\n"
         "  fi\n"
         "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
         "    COMPREPLY=($(compgen -W '" +
         absl::StrJoin(first_words, " ") +
         "' -- \"$current\"))\n"
         "    return\n"
         "  fi\n"
         "  local verb=${COMP_WORDS[1]} flags= kind=flags words=\n" +
         families + "  case $verb in\n" + verbs +
         "  esac\n"
         "  case $current in -*) [ \"$previous\" = '=' ] || kind=flags ;; esac\n"
         "  case $kind in\n"
         "    flags) COMPREPLY=($(compgen -W \"$flags\" -- \"$current\")) ;;\n"
         "    words) COMPREPLY=($(compgen -W \"$words\" -- \"$current\")) ;;\n"
         "    directory) compopt -o filenames 2>/dev/null\n"
         "      mapfile -t COMPREPLY < <(compgen -d -- \"$current\") ;;\n"
         "    file) compopt -o filenames 2>/dev/null\n"
         "      mapfile -t COMPREPLY < <(compgen -f -- \"$current\") ;;\n"
         "    none) COMPREPLY=() ;;\n"
         "  esac\n"
         "}\n"
         "complete -F _tandem tandem\n";
}

std::string ZshCompletions() {
  std::vector<std::string> first_words;
  std::string cases;
  for (const FirstWord& first : FirstWords()) {
    first_words.push_back(ZshEntry(first.word, first.help));
    cases += "    " + Str(first.word) + ")\n";
    if (!first.family) {
      for (const VerbSpec* verb : MembersOf("")) {
        if (verb->name == first.word) cases += ZshVerb(*verb, "      ");
      }
    } else {
      std::vector<std::string> members;
      std::string inner;
      for (const VerbSpec* verb : MembersOf(first.word)) {
        members.push_back(ZshEntry(MemberOf(*verb), verb->help));
        inner += "        " + Str(MemberOf(*verb)) + ")\n" + ZshVerb(*verb, "          ") +
                 "          ;;\n";
      }
      cases += absl::StrFormat(
          "      if (( CURRENT == 2 )); then\n"
          "        local -a members=(%s)\n"
          "        _describe command members\n"
          "        return\n"
          "      fi\n"
          "      shift words\n"
          "      (( CURRENT-- ))\n"
          "      case $words[1] in\n%s      esac\n",
          absl::StrJoin(members, " "), inner);
    }
    cases += "      ;;\n";
  }
  return "#compdef tandem\n"
         "# Completions of tandem for zsh, made by `tandem completions zsh`.\n"
         "_tandem() {\n" +
         ZshList("commands", first_words) +
         "  if (( CURRENT == 2 )); then\n"
         "    _describe command commands\n"
         "    return\n"
         "  fi\n"
         "  shift words\n"
         "  (( CURRENT-- ))\n"
         "  case $words[1] in\n" +
         cases +
         "  esac\n"
         "}\n"
         "if [ \"$funcstack[1]\" = _tandem ]; then\n"
         "  _tandem \"$@\"\n"
         "else\n"
         "  compdef _tandem tandem\n"
         "fi\n";
}

std::string FishCompletions() {
  std::string text =
      "# Completions of tandem for fish, made by `tandem completions fish`.\n"
      "complete -c tandem -f\n" +
      FishLine("__fish_use_subcommand", "-s h -l help -d 'the commands'") +
      FishLine("__fish_use_subcommand", "-s V -l version -d 'version and build'");
  for (const FirstWord& first : FirstWords()) {
    text += FishLine("__fish_use_subcommand",
                     "-a " + Str(first.word) + " -d " + FishQuoted(first.help));
    if (!first.family) continue;
    std::string members;
    for (const VerbSpec* verb : MembersOf(first.word)) members += " " + Str(MemberOf(*verb));
    const std::string none_yet = "__fish_seen_subcommand_from " + Str(first.word) +
                                 "; and not __fish_seen_subcommand_from" + members;
    for (const VerbSpec* verb : MembersOf(first.word)) {
      text += FishLine(none_yet, "-a " + Str(MemberOf(*verb)) + " -d " + FishQuoted(verb->help));
    }
  }
  for (const VerbSpec& verb : Verbs()) text += FishVerb(verb);
  return text;
}

}  // namespace tandem::server
