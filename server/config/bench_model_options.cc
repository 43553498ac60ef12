#include "server/config/bench_model_options.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "absl/strings/str_format.h"
#include "scheduler/request.h"
#include "server/config/option_value.h"

namespace tandem::server {
namespace {

constexpr std::array<std::string_view, 2> kComparable = {"spec-mode", "spec-max-draft"};

absl::Status CheckChances(std::string_view text) { return ParseChances(text).status(); }

absl::Status CheckCompare(std::string_view text) { return WithSetting({}, text).status(); }

std::vector<OptionSpec> Alike(Verb verb, std::vector<OptionSpec> options) {
  for (OptionSpec& option : options) {
    option.verbs = Bit(verb);
    option.is_setting = false;
  }
  return options;
}

}  // namespace

std::vector<OptionSpec> BenchCompareOptions() {
  return Alike(
      Verb::kBenchModel,
      {{.name = "compare",
        .placeholder = "KEY=VALUE",
        .target = [](Settings& s) -> Target { return &s.bench.compare; },
        .check = CheckCompare,
        .unset = "no",
        .help = "with the same but for spec-mode or -max-draft",
        .detail = "Such as spec-mode=off or spec-max-draft=4. Prompts are answered as a server "
                  "would, once as set (A) and once with KEY=VALUE (B), in turn on one loaded "
                  "engine, and the ratios of these pairs are reported; --repetitions is their "
                  "number. --generate is the longest answer."},
       {.name = "prompts",
        .is_common = false,
        .placeholder = "FILE",
        .target = [](Settings& s) -> Target { return &s.bench.prompts; },
        .unset = "the model's own",
        .help = "of --compare: JSON lines with \"prompt\", \"task\"",
        .detail = "Every task is measured apart, and all together. By default heldout.jsonl in "
                  "the model's directory; for dummy weights random ids."},
       {.name = "temperature",
        .is_common = false,
        .placeholder = "T",
        .target = [](Settings& s) -> Target { return &s.bench.temperature; },
        .min = 0,
        .max = 10,
        .help = "of --compare; 0 takes the likeliest token"},
       {.name = "assume-acceptance",
        .is_common = false,
        .placeholder = "P,..",
        .target = [](Settings& s) -> Target { return &s.bench.assume_acceptance; },
        .check = CheckChances,
        .unset = "as it is",
        .help = "of --compare: chance that guess 1, 2, .. holds",
        .detail = "A seeded coin decides instead of the assistant; the last chance counts for "
                  "longer drafts too. Everything is run in full: the assistant's chain, the rows "
                  "that verify its guesses, rollback. Shows what a drafter of that quality would "
                  "be worth, also with dummy weights."}});
}

std::vector<OptionSpec> BenchAcceptOptions() {
  return Alike(Verb::kBenchAccept,
               {{.name = "prompts",
                 .letter = 'p',
                 .placeholder = "FILE",
                 .target = [](Settings& s) -> Target { return &s.bench_accept.prompts; },
                 .unset = "the model's own",
                 .help = "JSON lines with \"prompt\" and \"task\"",
                 .detail = "Every task is reported apart. By default heldout.jsonl in the model's "
                           "directory; for dummy weights random ids."},
                {.name = "requests",
                 .letter = 'r',
                 .placeholder = "N",
                 .target = [](Settings& s) -> Target { return &s.bench_accept.requests; },
                 .min = 0,
                 .max = 10'000'000,
                 .unset = "all",
                 .help = "prompts to answer, of all tasks alike"},
                {.name = "generate",
                 .letter = 'n',
                 .placeholder = "N",
                 .target = [](Settings& s) -> Target { return &s.bench_accept.generate; },
                 .min = 1,
                 .max = 1 << 20,
                 .help = "longest answer, in tokens"},
                {.name = "streams",
                 .letter = 's',
                 .placeholder = "N",
                 .target = [](Settings& s) -> Target { return &s.bench_accept.streams; },
                 .min = 1,
                 .max = 1024,
                 .help = "answers under way at the same time"},
                {.name = "temperature",
                 .placeholder = "T",
                 .target = [](Settings& s) -> Target { return &s.bench_accept.temperature; },
                 .min = 0,
                 .max = 10,
                 .help = "0 takes the most likely token"},
                {.name = "output",
                 .letter = 'o',
                 .placeholder = "FORMAT",
                 .target = [](Settings& s) -> Target { return &s.bench_accept.output; },
                 .choices = {"md", "json"},
                 .help = "md (Markdown) or json"}});
}

absl::StatusOr<Settings> WithSetting(const Settings& settings, std::string_view key_value) {
  const size_t equals = key_value.find('=');
  const std::string_view key = key_value.substr(0, equals);
  const bool known = std::find(kComparable.begin(), kComparable.end(), key) != kComparable.end();
  if (!known || equals == std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrFormat("'%s' can not differ between two runs of one loaded engine; possible are "
                        "spec-mode=auto|off|fixed and spec-max-draft=0..%d",
                        std::string(key_value), scheduler::kMaxDraftTokens));
  }
  Settings changed = settings;
  const std::vector<std::string> value = {std::string(key_value.substr(equals + 1))};
  if (absl::Status s = StoreValue(*FindSetting(key), value, key, changed); !s.ok()) return s;
  return changed;
}

absl::StatusOr<std::vector<double>> ParseChances(std::string_view text) {
  std::vector<double> chances;
  for (bool more = true; more;) {
    const size_t comma = text.find(',');
    const std::string_view part = text.substr(0, comma);
    more = comma != std::string_view::npos;
    if (more) text.remove_prefix(comma + 1);
    double chance = -1;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), chance);
    const bool number = error == std::errc() && end == part.data() + part.size();
    if (!number || !(chance >= 0 && chance <= 1)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "'%s' is no chance from 0 to 1; expected is one for each place of a draft, such as "
          "0.8,0.6,0.4",
          std::string(part)));
    }
    chances.push_back(chance);
  }
  if (chances.size() > scheduler::kMaxDraftTokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d chances are given, but a draft has at most %d tokens", chances.size(),
                        scheduler::kMaxDraftTokens));
  }
  return chances;
}

absl::Status CheckBenchModel(const Settings& settings,
                             const std::map<std::string, std::string>& given) {
  const auto has = [&](const char* name) { return given.count(name) > 0; };
  const BenchArguments& bench = settings.bench;
  if (bench.compare.empty()) {
    for (const char* name : {"prompts", "temperature", "assume-acceptance"}) {
      if (!has(name)) continue;
      return absl::InvalidArgumentError(absl::StrFormat(
          "--%s needs --compare, such as --compare spec-mode=off; without it random ids are fed "
          "and nothing is guessed",
          name));
    }
    return absl::OkStatus();
  }
  if (has("prompt")) {
    return absl::InvalidArgumentError(
        "--prompt and --compare contradict each other: what is compared are answers, to the "
        "prompts of --prompts; drop one");
  }
  const bool one_length = bench.generate.size() == 1 && bench.generate[0] > 0;
  if (!one_length) {
    return absl::InvalidArgumentError("--generate takes one value above 0 with --compare");
  }
  const Settings other = WithSetting(settings, bench.compare).value();
  if (other.spec_mode == settings.spec_mode && other.spec_max_draft == settings.spec_max_draft) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--compare %s is what is set anyway: both sides would be the same", bench.compare));
  }
  if (other.spec_mode == "off" && settings.spec_mode == "off") {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--compare %s with spec-mode off: neither side would guess anything", bench.compare));
  }
  return absl::OkStatus();
}

}  // namespace tandem::server
