#include "server/config/bench_kv_options.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace tandem::server {
namespace {

absl::Status CheckChoice(std::string_view text) { return ParseKvChoice(text).status(); }

absl::Status CheckChoices(std::string_view text) { return ParseKvChoices(text).status(); }

// Presets differ from what they are made of only by the layers they protect, which is nothing to
// measure the speed of.
absl::Status CheckPairs(std::string_view text) {
  const absl::StatusOr<std::vector<KvChoice>> choices = ParseKvChoices(text);
  if (!choices.ok()) return choices.status();
  for (const KvChoice& choice : *choices) {
    if (const auto pair = kvcache::ParseKvPair(choice.name); !pair.ok()) return pair.status();
  }
  return absl::OkStatus();
}

std::vector<OptionSpec> Alike(Verb verb, std::vector<OptionSpec> options) {
  for (OptionSpec& option : options) {
    option.verbs = Bit(verb);
    option.is_setting = false;
  }
  return options;
}

}  // namespace

std::vector<OptionSpec> BenchKvOptions() {
  return Alike(
      Verb::kBenchKv,
      {{.name = "model-shape",
        .placeholder = "SHAPE",
        .target = [](Settings& s) -> Target { return &s.bench_kv.model_shape; },
        .choices = {"e2b", "e4b", "12b", "26b", "31b"},
        .help = "whose layers: e2b, e4b, 12b, 26b or 31b"},
       {.name = "model",
        .letter = 'm',
        .placeholder = "DIR",
        .target = [](Settings& s) -> Target { return &s.bench_kv.model; },
        .unset = "none",
        .help = "those of a checkpoint; only its config.json is read"},
       {.name = "formats",
        .letter = 'f',
        .placeholder = "F,..",
        .target = [](Settings& s) -> Target { return &s.bench_kv.formats; },
        .check = CheckPairs,
        .help = "formats, or pairs as q8/turbo4",
        .detail = "K first. Each is measured in pairs with bf16, in turn: A, B, B, A. No layer is "
                  "protected."},
       {.name = "context",
        .letter = 'c',
        .placeholder = "N,..",
        .target = [](Settings& s) -> Target { return &s.bench_kv.context; },
        .min = 1,
        .max = 1 << 20,
        .help = "tokens that a sequence has",
        .detail = "Sliding layers see their window of it, so that longer contexts are one test."},
       {.name = "sequences",
        .letter = 's',
        .placeholder = "N",
        .target = [](Settings& s) -> Target { return &s.bench_kv.sequences; },
        .min = 0,
        .max = 1 << 20,
        .unset = "beyond the caches",
        .help = "that decode together",
        .detail = "By default so many that the KV of each format is four times the last-level "
                  "cache, if that fits into half of the free memory. The report says how many."},
       {.name = "repetitions",
        .letter = 'r',
        .placeholder = "N",
        .target = [](Settings& s) -> Target { return &s.bench_kv.repetitions; },
        .min = 1,
        .max = 1000,
        .help = "pairs; the median of their ratios is shown"},
       {.name = "output",
        .letter = 'o',
        .placeholder = "FORMAT",
        .target = [](Settings& s) -> Target { return &s.bench_kv.output; },
        .choices = {"md", "json"},
        .help = "md (Markdown) or json"}});
}

std::vector<OptionSpec> BenchKvQualityOptions() {
  return Alike(
      Verb::kBenchKvQuality,
      {{.name = "formats",
        .letter = 'f',
        .placeholder = "F,..",
        .target = [](Settings& s) -> Target { return &s.bench_kv_quality.formats; },
        .check = CheckChoices,
        .help = "formats, pairs or presets",
        .detail = "With a format or a pair no layer is protected; a preset protects what it "
                  "protects in `tandem serve`. f32 shows the floor: how far the reference itself "
                  "is from unrounded keys and values."},
       {.name = "reference",
        .placeholder = "F",
        .target = [](Settings& s) -> Target { return &s.bench_kv_quality.reference; },
        .check = CheckChoice,
        .help = "what they are held against"},
       {.name = "prompts",
        .letter = 'p',
        .placeholder = "FILE",
        .target = [](Settings& s) -> Target { return &s.bench_kv_quality.prompts; },
        .unset = "the model's own",
        .help = "JSON lines with \"prompt\" and \"task\"",
        .detail = "A prompt without turns of its own becomes a user's message when the model was "
                  "trained on chats. By default heldout.jsonl in the model's directory; for "
                  "dummy weights random ids, and for any model with the word random in place of "
                  "a file."},
       {.name = "requests",
        .letter = 'r',
        .placeholder = "N",
        .target = [](Settings& s) -> Target { return &s.bench_kv_quality.requests; },
        .min = 0,
        .max = 10'000'000,
        .unset = "all",
        .help = "prompts to answer, of all tasks alike"},
       {.name = "generate",
        .letter = 'n',
        .placeholder = "N",
        .target = [](Settings& s) -> Target { return &s.bench_kv_quality.generate; },
        .min = 1,
        .max = 1 << 20,
        .help = "longest answer, in tokens"},
       {.name = "streams",
        .letter = 's',
        .placeholder = "N",
        .target = [](Settings& s) -> Target { return &s.bench_kv_quality.streams; },
        .min = 1,
        .max = 1024,
        .help = "answers under way at the same time"},
       {.name = "output",
        .letter = 'o',
        .placeholder = "FORMAT",
        .target = [](Settings& s) -> Target { return &s.bench_kv_quality.output; },
        .choices = {"md", "json"},
        .help = "md (Markdown) or json"},
       {.name = "plot",
        .placeholder = "FILE",
        .target = [](Settings& s) -> Target { return &s.bench_kv_quality.plot; },
        .unset = "none",
        .help = "SVG: bytes per token against divergence"}});
}

absl::StatusOr<KvChoice> ParseKvChoice(std::string_view text) {
  if (const auto preset = kvcache::PresetFormats(text)) {
    return KvChoice{.name = std::string(text), .formats = *preset};
  }
  const absl::StatusOr<kvcache::KvPair> pair = kvcache::ParseKvPair(text);
  if (!pair.ok()) {
    return absl::Status(pair.status().code(),
                        absl::StrFormat("%s; presets are exact, safe, balanced, compact and max",
                                        std::string(pair.status().message())));
  }
  return KvChoice{.name = std::string(text), .formats = {.groups = {*pair, *pair}}};
}

absl::StatusOr<std::vector<KvChoice>> ParseKvChoices(std::string_view list) {
  std::vector<KvChoice> choices;
  for (bool more = true; more;) {
    const size_t comma = list.find(',');
    absl::StatusOr<KvChoice> choice = ParseKvChoice(list.substr(0, comma));
    if (!choice.ok()) return choice.status();
    const bool twice = std::any_of(choices.begin(), choices.end(), [&](const KvChoice& other) {
      return other.name == choice->name;
    });
    if (twice) {
      return absl::InvalidArgumentError(
          absl::StrFormat("'%s' is given twice; once is enough", choice->name));
    }
    choices.push_back(*std::move(choice));
    more = comma != std::string_view::npos;
    if (more) list.remove_prefix(comma + 1);
  }
  return choices;
}

absl::Status CheckBenchKv(const BenchKvArguments& arguments,
                          const std::map<std::string, std::string>& given) {
  // The environment may hold a shape or a model too: those are settings, of other commands.
  const auto shape = given.find("model-shape");
  const bool both =
      !arguments.model.empty() && shape != given.end() && shape->second == "--model-shape";
  if (!both) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "--model %s and --model-shape %s contradict each other: both say whose layers to take; drop "
      "one",
      arguments.model, arguments.model_shape));
}

}  // namespace tandem::server
