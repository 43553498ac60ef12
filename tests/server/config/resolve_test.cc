#include "server/config/resolve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace tandem::server {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

using Words = std::vector<std::string>;

// Resolves with a file "t.toml" of the given text.
absl::StatusOr<Invocation> ResolveWords(const Words& words, const Environment& environment = {},
                                        const std::string& toml = "") {
  return Resolve(words, environment, [&](const std::string& path) -> absl::StatusOr<std::string> {
    if (path == "t.toml") return toml;
    return absl::NotFoundError("no such file: " + path);
  });
}

std::string Error(const Words& words, const Environment& environment = {},
                  const std::string& toml = "") {
  const absl::StatusOr<Invocation> invocation = ResolveWords(words, environment, toml);
  EXPECT_FALSE(invocation.ok()) << "accepted";
  return std::string(invocation.status().message());
}

TEST(ResolveTest, FlagsWinOverEnvironmentOverFileOverDefaults) {
  // Given a file that sets four settings, an environment with three of them, a flag for two.
  const std::string toml = "max_slots = 2\nthreads = 2\nmax_context = 200\ndtype = \"f32\"\n";
  const Environment environment = {
      {"TANDEM_MAX_SLOTS", "3"}, {"TANDEM_THREADS", "3"}, {"TANDEM_MAX_CONTEXT", "300"}};
  // When all are put together.
  const auto invocation = ResolveWords(
      {"serve", "--config", "t.toml", "--max-slots", "4", "--threads=4"}, environment, toml);
  // Then each has the value of its strongest source, and remembers that.
  ASSERT_TRUE(invocation.ok()) << invocation.status();
  EXPECT_EQ(invocation->settings.max_slots, 4);
  EXPECT_EQ(invocation->settings.threads, 4);
  EXPECT_EQ(invocation->settings.max_context, 300);
  EXPECT_EQ(invocation->settings.dtype, "f32");
  EXPECT_EQ(invocation->settings.max_queued_requests, Settings{}.max_queued_requests);
  EXPECT_EQ(invocation->given.at("max-slots"), "--max-slots");
  EXPECT_EQ(invocation->given.at("max-context"), "TANDEM_MAX_CONTEXT");
  EXPECT_EQ(invocation->given.at("dtype"), "t.toml:4:1: dtype");
  EXPECT_EQ(invocation->given.count("max-queued-requests"), 0u);
}

TEST(ResolveTest, TheFileIsNamedByTheFlagElseByTheEnvironment) {
  const auto by_environment =
      ResolveWords({"serve"}, {{"TANDEM_CONFIG", "t.toml"}}, "max_slots = 2");
  ASSERT_TRUE(by_environment.ok()) << by_environment.status();
  EXPECT_EQ(by_environment->settings.max_slots, 2);
  const auto by_flag = ResolveWords({"serve", "--config", "t.toml"},
                                    {{"TANDEM_CONFIG", "other.toml"}}, "max_slots = 3");
  ASSERT_TRUE(by_flag.ok()) << by_flag.status();
  EXPECT_EQ(by_flag->settings.max_slots, 3);
}

TEST(ResolveTest, AMissingFileIsNamedWithWhereItWasAskedFor) {
  EXPECT_THAT(Error({"serve", "--config", "none.toml"}),
              AllOf(StartsWith("--config"), HasSubstr("none.toml")));
  EXPECT_THAT(Error({"serve"}, {{"TANDEM_CONFIG", "none.toml"}}), StartsWith("TANDEM_CONFIG"));
}

TEST(ResolveTest, AnEmptyVariableOrKeyCountsAsNotGiven) {
  const auto invocation = ResolveWords({"serve"}, {{"TANDEM_MODEL", ""}, {"TANDEM_CONFIG", ""}});
  ASSERT_TRUE(invocation.ok()) << invocation.status();
  EXPECT_THAT(invocation->given, IsEmpty());
  const auto from_file = ResolveWords({"serve", "--config", "t.toml"}, {}, "model_shape = \"\"");
  ASSERT_TRUE(from_file.ok()) << from_file.status();
  EXPECT_EQ(from_file->given.count("model-shape"), 0u);
}

TEST(ResolveTest, ListsRepeatAsFlagsUseCommasInTheEnvironmentAndArraysInTheFile) {
  const auto flags = ResolveWords({"serve", "--grpc-listen", "a:1", "--grpc-listen", "[::]:2"});
  ASSERT_TRUE(flags.ok()) << flags.status();
  EXPECT_THAT(flags->settings.grpc_listen, ElementsAre("a:1", "[::]:2"));
  const auto environment = ResolveWords({"serve"}, {{"TANDEM_GRPC_LISTEN", "a:1,b:2"}});
  ASSERT_TRUE(environment.ok()) << environment.status();
  EXPECT_THAT(environment->settings.grpc_listen, ElementsAre("a:1", "b:2"));
  const auto file =
      ResolveWords({"serve", "--config", "t.toml"}, {}, "grpc_listen = [\"a:1\", \"b:2\"]");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(file->settings.grpc_listen, ElementsAre("a:1", "b:2"));
  const auto numbers = ResolveWords({"bench", "model", "--streams", "1,4", "-s", "16", "-p", "0"});
  ASSERT_TRUE(numbers.ok()) << numbers.status();
  EXPECT_THAT(numbers->settings.bench.streams, ElementsAre(1, 4, 16));
}

TEST(ResolveTest, AFileMayHoldSettingsOfOtherVerbs) {
  const auto invocation =
      ResolveWords({"run", "--config", "t.toml"}, {{"TANDEM_MAX_N", "2"}}, "http_listen = \"off\"");
  ASSERT_TRUE(invocation.ok()) << invocation.status();
  EXPECT_EQ(invocation->settings.http_listen, "off");
}

TEST(ResolveTest, TextThatLooksLikeSyntaxReachesThePromptUnchanged) {
  const auto invocation =
      ResolveWords({"run", "-p", "-", "--stop", "[END]", "--stop", "a,b", "-n", "3"});
  ASSERT_TRUE(invocation.ok()) << invocation.status();
  EXPECT_EQ(invocation->settings.run.prompt, "-");
  EXPECT_THAT(invocation->settings.run.stop, ElementsAre("[END]", "a,b"));
  EXPECT_EQ(invocation->settings.run.max_tokens, 3);
  const auto empty = ResolveWords({"run", "-p", ""});
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_EQ(empty->settings.run.prompt, "");
}

TEST(ResolveTest, InspectTakesItsModelAsAWordOrAsAFlag) {
  const auto word = ResolveWords({"inspect", "some/dir", "--json"});
  ASSERT_TRUE(word.ok()) << word.status();
  EXPECT_EQ(word->settings.model, "some/dir");
  EXPECT_TRUE(word->settings.json);
  const auto flag = ResolveWords({"inspect", "--model", "some/dir"});
  ASSERT_TRUE(flag.ok()) << flag.status();
  EXPECT_EQ(flag->settings.model, "some/dir");
}

TEST(ResolveTest, HelpAndVersionAskForNothingElse) {
  EXPECT_EQ(ResolveWords({"--version"})->action, CommandLine::Action::kVersion);
  EXPECT_EQ(ResolveWords({"--help"})->action, CommandLine::Action::kHelp);
  EXPECT_EQ(ResolveWords({"serve", "--bogus", "-h"})->action, CommandLine::Action::kHelp);
  EXPECT_EQ(ResolveWords({"serve", "--help-all"})->action, CommandLine::Action::kHelpAll);
  EXPECT_EQ(ResolveWords({"bench", "model", "--help"})->verb, Verb::kBenchModel);
  const auto family = ResolveWords({"bench", "--help"});
  EXPECT_EQ(family->action, CommandLine::Action::kHelp);
  EXPECT_EQ(family->family, "bench");
}

TEST(BadCommandLineTest, AnUnknownVerbIsAnsweredWithTheNearestOrWithAll) {
  EXPECT_THAT(Error({"srve"}), HasSubstr("did you mean `tandem serve`?"));
  EXPECT_THAT(Error({"bench", "modle"}), HasSubstr("did you mean `tandem bench model`?"));
  EXPECT_THAT(Error({"quantize"}), HasSubstr("the commands are serve, chat, run, inspect"));
  EXPECT_THAT(Error({}), HasSubstr("command is missing"));
  EXPECT_THAT(Error({"bench"}), AllOf(HasSubstr("`tandem bench` needs one word more"),
                                      HasSubstr("\n  tandem bench model ")));
  EXPECT_THAT(Error({"--model", "x"}), HasSubstr("command"));
}

TEST(BadCommandLineTest, AnUnknownFlagIsAnsweredWithTheNearestOne) {
  EXPECT_THAT(Error({"serve", "--max-slot", "4"}),
              AllOf(HasSubstr("--max-slot is not an option"), HasSubstr("mean --max-slots?")));
  EXPECT_THAT(Error({"serve", "--max-slot=4"}), HasSubstr("mean --max-slots?"));
  EXPECT_THAT(Error({"run", "--promt", "x"}), HasSubstr("mean --prompt?"));
  EXPECT_THAT(Error({"serve", "--frobnicate"}), Not(HasSubstr("mean")));
}

TEST(BadCommandLineTest, AFlagOfAnotherVerbSaysWhose) {
  EXPECT_THAT(Error({"run", "--grpc-listen", "a:1"}),
              HasSubstr("not an option of `tandem run`; it is one of `tandem serve`"));
  EXPECT_THAT(Error({"serve", "--temperature", "1"}), HasSubstr("one of `tandem chat`"));
}

TEST(BadCommandLineTest, AMissingValueNamesItsFlag) {
  EXPECT_EQ(Error({"serve", "--model"}), "--model needs a value");
  EXPECT_EQ(Error({"serve", "--model", "--threads", "2"}),
            "--model needs a value, but --threads follows it");
}

TEST(BadCommandLineTest, AFlagGivenTwiceAndAStrayWordAreRefused) {
  EXPECT_THAT(Error({"serve", "--threads", "1", "--threads", "2"}),
              AllOf(HasSubstr("--threads is given 2 times"), HasSubstr("'1', '2'")));
  EXPECT_THAT(Error({"serve", "some/dir"}), HasSubstr("does not take the argument 'some/dir'"));
  EXPECT_THAT(Error({"serve", "--", "word"}), HasSubstr("does not take the argument"));
  EXPECT_THAT(Error({"serve", "--", "--threads", "2"}), HasSubstr("--threads stands behind --"));
  EXPECT_THAT(Error({"bench", "model", "word"}), HasSubstr("does not take the argument 'word'"));
  EXPECT_THAT(Error({"run", "serve"}), HasSubstr("does not take the argument 'serve'"));
}

TEST(BadValueTest, TheMessageNamesSourceValueAndWhatIsAllowed) {
  EXPECT_EQ(Error({"serve", "--max-slots", "0"}), "--max-slots is '0'; the range is 1 to 1024");
  EXPECT_EQ(Error({"serve"}, {{"TANDEM_MAX_SLOTS", "many"}}),
            "TANDEM_MAX_SLOTS is 'many'; an integer is expected, 1 to 1024");
  EXPECT_EQ(Error({"serve", "--threads", "99999999999"}),
            "--threads is '99999999999'; the range is 0 to 1024");
  EXPECT_EQ(Error({"serve", "--threads", ""}), "--threads is ''; a value is expected");
  EXPECT_EQ(Error({"serve", "--model", ""}), "--model is ''; a value is expected");
  EXPECT_EQ(Error({"serve", "--dtype", "fp16"}),
            "--dtype is 'fp16'; the choices are bf16 or f32 (did you mean bf16?)");
  EXPECT_THAT(Error({"serve", "--block-tokens", "33"}), HasSubstr("choices are 16, 32 or 64"));
  EXPECT_THAT(Error({"serve", "--kv-memory", "lots"}), HasSubstr("such as 4GiB"));
  EXPECT_THAT(Error({"serve", "--http-listen", "8080"}), HasSubstr("HOST:PORT"));
  EXPECT_THAT(Error({"run", "--top-p", "0"}), StartsWith("--top-p is '0'; the range is"));
  EXPECT_THAT(Error({"run", "--temperature", "nan"}), HasSubstr("finite"));
  EXPECT_THAT(Error({"run", "--seed", "-1"}), HasSubstr("0 to 18446744073709551615"));
}

TEST(BadValueTest, AValueThatAStrongerSourceOverridesIsCheckedAllTheSame) {
  EXPECT_THAT(Error({"serve", "--config", "t.toml", "--max-slots", "4"}, {}, "max_slots = 0"),
              StartsWith("t.toml:1:1: max_slots is '0'"));
}

TEST(BadTomlTest, SyntaxErrorsHaveLineAndColumn) {
  EXPECT_THAT(Error({"serve", "--config", "t.toml"}, {}, "max_slots = 4\nthreads = = 2\n"),
              StartsWith("t.toml:2:11: "));
}

TEST(BadTomlTest, AnUnknownKeyIsAnsweredWithTheNearestOne) {
  EXPECT_EQ(Error({"serve", "--config", "t.toml"}, {}, "\nmax_slot = 4\n"),
            "t.toml:2:1: there is no setting max_slot; did you mean max_slots?");
  EXPECT_THAT(Error({"serve", "--config", "t.toml"}, {}, "max-slots = 4"),
              HasSubstr("did you mean max_slots?"));
  EXPECT_THAT(Error({"serve", "--config", "t.toml"}, {}, "config = \"t.toml\""),
              HasSubstr("no setting config"));
  EXPECT_THAT(Error({"serve", "--config", "t.toml"}, {}, "prompt = \"x\""),
              HasSubstr("no setting prompt"));
}

TEST(BadTomlTest, TablesAndValuesOfAnotherTypeAreRefused) {
  EXPECT_THAT(Error({"serve", "--config", "t.toml"}, {}, "[engine]\nmax_slots = 4"),
              AllOf(StartsWith("t.toml:1:"), HasSubstr("[engine] is a table")));
  EXPECT_EQ(Error({"serve", "--config", "t.toml"}, {}, "max_slots = \"4\""),
            "t.toml:1:1: max_slots is not a number");
  EXPECT_EQ(Error({"serve", "--config", "t.toml"}, {}, "dtype = 32"),
            "t.toml:1:1: dtype is not a string");
  EXPECT_EQ(Error({"serve", "--config", "t.toml"}, {}, "max_slots = [1, 2]"),
            "t.toml:1:1: max_slots is not a number");
  EXPECT_EQ(Error({"serve", "--config", "t.toml"}, {}, "grpc_listen = [1]"),
            "t.toml:1:1: grpc_listen is not a string");
}

TEST(ContradictionTest, BothSettingsAreNamedAsTheyWereGiven) {
  EXPECT_THAT(Error({"serve", "--load-format", "dummy", "--model-shape", "e2b"},
                    {{"TANDEM_MODEL", "some/dir"}}),
              AllOf(HasSubstr("TANDEM_MODEL 'some/dir'"), HasSubstr("--load-format dummy")));
  EXPECT_THAT(Error({"serve", "--model-shape", "e2b"}),
              AllOf(HasSubstr("--model-shape"), HasSubstr("--load-format dummy")));
  EXPECT_THAT(Error({"chat", "--connect", "a:1", "--model", "some/dir"}),
              AllOf(HasSubstr("--connect a:1"), HasSubstr("--model some/dir")));
  EXPECT_THAT(Error({"serve", "--load-format", "dummy"}),
              AllOf(HasSubstr("--load-format"), HasSubstr("--model-shape")));
  EXPECT_THAT(Error({"serve", "--max-context", "64", "--default-max-tokens", "65"}),
              AllOf(HasSubstr("--max-context is 64"), HasSubstr("--default-max-tokens is 65")));
  EXPECT_THAT(Error({"serve", "--max-step-rows", "16", "--max-slots", "9"}),
              AllOf(HasSubstr("--max-step-rows is 16"), HasSubstr("--max-slots is 9")));
  EXPECT_THAT(Error({"serve", "--spec-mode", "fixed"}, {{"TANDEM_DRAFT_MODEL", "none"}}),
              AllOf(HasSubstr("--spec-mode fixed"), HasSubstr("TANDEM_DRAFT_MODEL none")));
  EXPECT_THAT(Error({"serve", "--http-listen", "0.0.0.0:50051"}),
              AllOf(HasSubstr("--grpc-listen"), HasSubstr("--http-listen")));
  EXPECT_THAT(Error({"bench", "model", "--prompt", "0", "--generate", "0"}),
              AllOf(HasSubstr("--prompt"), HasSubstr("--generate")));
}

TEST(ContradictionTest, TwoListenersMayBothAskForAnyFreePort) {
  EXPECT_TRUE(ResolveWords({"serve", "--http-listen", "[::]:0", "--grpc-listen", "[::]:0"}).ok());
}

TEST(WarningTest, AVariableThatNearlyHasAKnownNameIsMentioned) {
  // Given a mistyped variable, and one that an orchestrator sets for a service called tandem.
  const auto invocation =
      ResolveWords({"serve"}, {{"TANDEM_MAX_SLOT", "4"}, {"TANDEM_SERVICE_HOST", "10.0.0.1"}});
  // Then only the first is worth a warning.
  ASSERT_TRUE(invocation.ok()) << invocation.status();
  EXPECT_THAT(invocation->warnings,
              ElementsAre(AllOf(HasSubstr("TANDEM_MAX_SLOT "), HasSubstr("TANDEM_MAX_SLOTS?"))));
}

}  // namespace
}  // namespace tandem::server
