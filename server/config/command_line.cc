#include "server/config/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/config/nearest_name.h"
#include "server/config/option_value.h"

namespace tandem::server {
namespace {

// One verb's part of the parser.
struct VerbParser {
  CLI::App* app = nullptr;
  CLI::Option* help = nullptr;
  CLI::Option* help_all = nullptr;
  std::vector<std::pair<const OptionSpec*, CLI::Option*>> options;
};

// Verbs of two words share the parser of their first.
struct FamilyParser {
  CLI::App* app = nullptr;
  CLI::Option* help = nullptr;
};

std::string Words(const VerbSpec& verb) { return "tandem " + std::string(verb.name); }

FamilyParser AddFamily(CLI::App& program, std::string_view family) {
  CLI::App* const app = program.add_subcommand(std::string(family));
  app->require_subcommand(0, 1);
  app->allow_extras();
  return {.app = app, .help = app->add_flag("-h,--help,--help-all")};
}

// CLI11 would take a list's further words, and would split a value in brackets, unless told not to.
void TakeWords(CLI::Option* option, int words) {
  option->type_size(words)->expected(1)->allow_extra_args(false);
  option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
}

VerbParser AddVerb(CLI::App* app, const VerbSpec& verb) {
  VerbParser parser;
  parser.app = app;
  app->allow_extras();
  parser.help = app->add_flag("-h,--help");
  parser.help_all = app->add_flag("--help-all");
  for (const OptionSpec& option : Options()) {
    if (!Takes(option, verb.verb)) continue;
    std::string names = FlagName(option);
    if (option.letter != 0) names += std::string(",-") + option.letter;
    if (option.name == verb.argument_option) names += "," + std::string(option.name);
    if (IsSwitch(option)) {
      parser.options.emplace_back(&option, app->add_flag(names));
    } else {
      CLI::Option* const added = app->add_option(names);
      TakeWords(added, option.words);
      parser.options.emplace_back(&option, added);
    }
  }
  return parser;
}

std::vector<std::string_view> FlagNames(Verb verb) {
  std::vector<std::string_view> names = {"help", "help-all"};
  for (const OptionSpec& option : Options()) {
    if (Takes(option, verb)) names.push_back(option.name);
  }
  return names;
}

absl::Status UnknownFlag(const VerbSpec& verb, std::string_view word) {
  const std::string_view flag = word.substr(0, word.find('='));
  const std::string_view name = flag.substr(std::min(flag.find_first_not_of('-'), flag.size()));
  std::string message =
      absl::StrFormat("%s is not an option of `%s`", std::string(flag), Words(verb));
  if (FindOption(verb.verb, name) != nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s stands behind --, where no options are read", std::string(flag)));
  }
  for (const VerbSpec& other : Verbs()) {
    if (other.verb == Verb::kConfig || FindOption(other.verb, name) == nullptr) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("%s; it is one of `%s`", message, Words(other)));
  }
  const std::vector<std::string_view> names = FlagNames(verb.verb);
  const std::string_view nearest = NearestName(name, names);
  if (!nearest.empty()) message += absl::StrFormat("; did you mean --%s?", std::string(nearest));
  return absl::InvalidArgumentError(message);
}

absl::Status UnknownVerb(std::string_view word) {
  std::string message = absl::StrFormat("'%s' is not a command", std::string(word));
  if (word.substr(0, 1) == "-") message = std::string(word) + " needs a command in front of it";
  std::vector<std::string_view> names;
  for (const VerbSpec& verb : Verbs()) names.push_back(verb.name);
  const std::string_view nearest = NearestName(word, names);
  if (!nearest.empty()) {
    message += absl::StrFormat("; did you mean `tandem %s`?", std::string(nearest));
  } else {
    message += "; the commands are";
    for (size_t i = 0; i < names.size(); ++i) {
      message += (i == 0 ? " " : ", ") + std::string(names[i]);
    }
  }
  return absl::InvalidArgumentError(message);
}

// `tandem bench` without the word that says which. `word` stands in its place; empty: none.
absl::Status NoSuchMember(std::string_view family, std::string_view word) {
  std::string message = absl::StrFormat("`tandem %s` needs one word more", std::string(family));
  if (!word.empty()) {
    message =
        absl::StrFormat("`tandem %s %s` is not a command", std::string(family), std::string(word));
    std::vector<std::string_view> members;
    for (const VerbSpec& verb : Verbs()) {
      if (FamilyOf(verb) == family) members.push_back(MemberOf(verb));
    }
    const std::string_view nearest = NearestName(word, members);
    if (!nearest.empty()) {
      message += absl::StrFormat("; did you mean `tandem %s %s`?", std::string(family),
                                 std::string(nearest));
    }
  }
  message += ":\n";
  for (const VerbSpec& verb : Verbs()) {
    if (FamilyOf(verb) != family) continue;
    message += absl::StrFormat("\n  %-20s %s", Words(verb), std::string(verb.help));
  }
  return absl::InvalidArgumentError(message);
}

absl::StatusOr<std::vector<Assignment>> TakeFlags(const VerbSpec& verb, const VerbParser& parser) {
  std::vector<Assignment> flags;
  for (const auto& [option, parsed] : parser.options) {
    if (parsed->count() == 0) continue;
    Assignment flag = {.option = option, .values = parsed->results(), .where = FlagName(*option)};
    if (IsSwitch(*option) && flag.values.size() > 1) flag.values.resize(1);
    for (const std::string& value : flag.values) {
      const bool is_flag = value.size() > 2 && value.substr(0, 2) == "--" &&
                           FindOption(verb.verb, std::string_view(value).substr(2)) != nullptr;
      if (is_flag) {
        return absl::InvalidArgumentError(
            absl::StrFormat("%s needs a value, but %s follows it", flag.where, value));
      }
    }
    flags.push_back(std::move(flag));
  }
  return flags;
}

}  // namespace

absl::StatusOr<CommandLine> ParseCommandLine(std::span<const std::string> words) {
  CLI::App program;
  program.set_help_flag("");
  program.allow_extras();
  program.require_subcommand(0, 1);
  CLI::Option* const help = program.add_flag("-h,--help");
  CLI::Option* const help_all = program.add_flag("--help-all");
  CLI::Option* const version = program.add_flag("-V,--version");
  std::map<Verb, VerbParser> parsers;
  std::map<std::string_view, FamilyParser> families;
  for (const VerbSpec& verb : Verbs()) {
    CLI::App* parent = &program;
    if (const std::string_view family = FamilyOf(verb); !family.empty()) {
      FamilyParser& parser = families[family];
      if (parser.app == nullptr) parser = AddFamily(program, family);
      parent = parser.app;
    }
    parsers[verb.verb] = AddVerb(parent->add_subcommand(std::string(MemberOf(verb))), verb);
  }

  try {
    program.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  } catch (const CLI::ArgumentMismatch& error) {
    // "--model: 1 required TEXT missing": only a flag at the end of the line comes here.
    const std::string text = error.what();
    return absl::InvalidArgumentError(text.substr(0, text.find(':')) + " needs a value");
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }

  if (version->count() > 0) return CommandLine{.action = CommandLine::Action::kVersion};
  for (const VerbSpec& verb : Verbs()) {
    const VerbParser& parser = parsers[verb.verb];
    if (!parser.app->parsed()) continue;
    CommandLine line = {.verb = verb.verb};
    if (parser.help_all->count() > 0) {
      line.action = CommandLine::Action::kHelpAll;
      return line;
    }
    if (parser.help->count() > 0 || help->count() > 0) {
      line.action = CommandLine::Action::kHelp;
      return line;
    }
    absl::StatusOr<std::vector<Assignment>> flags = TakeFlags(verb, parser);
    if (!flags.ok()) return flags.status();
    // What stands behind "--" is kept by the program, the rest by the verb.
    const std::vector<std::string> rest = program.remaining(/*recurse=*/true);
    for (const std::string& word : rest) {
      if (word.size() > 1 && word[0] == '-') return UnknownFlag(verb, word);
    }
    if (!rest.empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("`%s` does not take the argument '%s'", Words(verb), rest.front()));
    }
    line.flags = *std::move(flags);
    return line;
  }
  for (const auto& [family, parser] : families) {
    if (!parser.app->parsed()) continue;
    if (parser.help->count() > 0 || help->count() > 0) {
      return CommandLine{.action = CommandLine::Action::kHelp, .family = std::string(family)};
    }
    const std::vector<std::string> rest = program.remaining(/*recurse=*/true);
    return NoSuchMember(family, rest.empty() ? "" : rest.front());
  }
  if (help->count() > 0 || help_all->count() > 0) {
    return CommandLine{.action = CommandLine::Action::kHelp};
  }
  const std::vector<std::string> rest = program.remaining();
  if (rest.empty()) {
    return absl::InvalidArgumentError("a command is missing; `tandem --help` lists them");
  }
  return UnknownVerb(rest.front());
}

}  // namespace tandem::server
