#include "server/config/bench_serve_options.h"

#include <tuple>

#include "absl/strings/str_format.h"
#include "bench/lengths.h"
#include "bench/summary.h"

namespace tandem::server {
namespace {

// All of them alike: flags of one command only.
std::vector<OptionSpec> Alike(Group group, std::vector<OptionSpec> options) {
  for (OptionSpec& option : options) {
    option.group = group;
    option.verbs = Bit(Verb::kBenchServe);
    option.is_setting = false;
  }
  return options;
}

std::vector<OptionSpec> CommandOptions() {
  return Alike(
      Group::kCommand,
      {{.name = "connect",
        .placeholder = "ADDR",
        .target = [](Settings& s) -> Target { return &s.bench_serve.connect; },
        .check = CheckAddress,
        .unset = "own server",
        .help = "gRPC HOST:PORT to measure",
        .detail = "Without it a server is started in this process, and the same requests run "
                  "inside the process and over gRPC in turn, to show what gRPC costs."},
       {.name = "connections",
        .is_common = false,
        .placeholder = "N",
        .target = [](Settings& s) -> Target { return &s.bench_serve.connections; },
        .min = 1,
        .max = 1024,
        .help = "connections that calls take turns on"},
       {.name = "retry",
        .is_common = false,
        .placeholder = "N",
        .target = [](Settings& s) -> Target { return &s.bench_serve.retry; },
        .min = 0,
        .max = 100,
        .help = "times to send a refused request again",
        .detail = "After the delay that the server asks for. Only RESOURCE_EXHAUSTED and "
                  "UNAVAILABLE before the first token; times count from the first attempt."},
       {.name = "compare",
        .is_common = false,
        .words = 2,
        .placeholder = "A B",
        .target = [](Settings& s) -> Target { return &s.bench_serve.compare; },
        .unset = "none",
        .help = "two --save files, instead of a run"}});
}

std::vector<OptionSpec> LoadOptions() {
  return Alike(Group::kLoad,
               {{.name = "concurrency",
                 .letter = 'n',
                 .placeholder = "N,..",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.concurrency; },
                 .min = 1,
                 .max = 65536,
                 .unset = "16; own server 64",
                 .help = "calls at a time; a list sweeps",
                 .detail = "A closed loop: the next request is sent when one has ended."},
                {.name = "rate",
                 .placeholder = "R",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.rate; },
                 .min = 0.001,
                 .max = 1e6,
                 .unset = "closed loop",
                 .help = "requests per second, open loop",
                 .detail = "Sent by the clock, however many are under way."},
                {.name = "arrivals",
                 .is_common = false,
                 .placeholder = "PATTERN",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.arrivals; },
                 .choices = {"poisson", "constant", "burst"},
                 .help = "poisson, constant or burst, with --rate"},
                {.name = "burst-size",
                 .is_common = false,
                 .placeholder = "N",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.burst_size; },
                 .min = 1,
                 .max = 65536,
                 .help = "requests that arrive together in a burst"},
                {.name = "requests",
                 .letter = 'r',
                 .placeholder = "N",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.requests; },
                 .min = 1,
                 .max = 10'000'000,
                 .unset = "own server 256",
                 .help = "requests of a run"},
                {.name = "duration",
                 .letter = 'd',
                 .placeholder = "S",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.duration; },
                 .min = 0.1,
                 .max = 604800,
                 .unset = "10 without --requests",
                 .help = "seconds in which requests are sent"},
                {.name = "warmup",
                 .is_common = false,
                 .placeholder = "N",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.warmup; },
                 .min = 0,
                 .max = 1'000'000,
                 .unset = "one per call at a time",
                 .help = "requests before a run that do not count"},
                {.name = "stream",
                 .is_common = false,
                 .target = [](Settings& s) -> Target { return &s.bench_serve.stream; },
                 .help = "call GenerateStream; so it is without --unary"},
                {.name = "unary",
                 .is_common = false,
                 .target = [](Settings& s) -> Target { return &s.bench_serve.unary; },
                 .help = "call Generate: no TTFT and ITL"},
                {.name = "tenants",
                 .is_common = false,
                 .placeholder = "N",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.tenants; },
                 .min = 0,
                 .max = 100'000,
                 .unset = "none named",
                 .help = "tenants that requests are spread over"},
                {.name = "priority",
                 .is_common = false,
                 .placeholder = "P",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.priority; },
                 .min = -100,
                 .max = 100,
                 .help = "priority of all requests"},
                {.name = "deadline-ms",
                 .is_common = false,
                 .placeholder = "MS",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.deadline_ms; },
                 .min = 0,
                 .max = 86'400'000,
                 .unset = "none",
                 .help = "deadline of every call"}});
}

std::vector<OptionSpec> WorkloadOptions() {
  return Alike(
      Group::kWorkload,
      {{.name = "prompt-tokens",
        .letter = 'p',
        .placeholder = "LENGTH",
        .target = [](Settings& s) -> Target { return &s.bench_serve.prompt_tokens; },
        .check = bench::CheckLengths,
        .help = "N, A-B or lognormal:MEAN:SIGMA",
        .detail = "Random ids behind a BOS, which counts. MEAN is in tokens, SIGMA that of the "
                  "logarithm; long tails are cut to the model's context."},
       {.name = "output-tokens",
        .letter = 'g',
        .placeholder = "LENGTH",
        .target = [](Settings& s) -> Target { return &s.bench_serve.output_tokens; },
        .check = bench::CheckLengths,
        .help = "the same for answers"},
       {.name = "prompts",
        .is_common = false,
        .placeholder = "FILE",
        .target = [](Settings& s) -> Target { return &s.bench_serve.prompts; },
        .unset = "random ids",
        .help = "JSON lines whose \"prompt\" is sent as text",
        .detail = "In turn, with control tokens such as <|turn> read as such."},
       {.name = "shared-prefix",
        .is_common = false,
        .placeholder = "N",
        .target = [](Settings& s) -> Target { return &s.bench_serve.shared_prefix; },
        .min = 0,
        .max = 1 << 20,
        .help = "leading tokens that all prompts share"},
       {.name = "keep-eos",
        .is_common = false,
        .target = [](Settings& s) -> Target { return &s.bench_serve.keep_eos; },
        .help = "let answers end before their length"},
       {.name = "temperature",
        .is_common = false,
        .placeholder = "T",
        .target = [](Settings& s) -> Target { return &s.bench_serve.temperature; },
        .min = 0,
        .max = 10,
        .unset = "the model's",
        .help = "0 takes the most likely token"},
       {.name = "seed",
        .is_common = false,
        .placeholder = "N",
        .target = [](Settings& s) -> Target { return &s.bench_serve.seed; },
        .help = "the same seed makes the same requests"},
       {.name = "stream-interval-tokens",
        .is_common = false,
        .placeholder = "N,..",
        .target = [](Settings& s) -> Target { return &s.bench_serve.stream_interval_tokens; },
        .min = 1,
        .max = 1024,
        .unset = "1; own server 1,8",
        .help = "least tokens in a message"}});
}

std::vector<OptionSpec> ReportOptions() {
  return Alike(Group::kReport,
               {{.name = "goodput",
                 .is_common = false,
                 .placeholder = "LIMITS",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.goodput; },
                 .check = bench::CheckGoodput,
                 .unset = "none",
                 .help = "count requests within ttft:MS,itl:MS,e2e:MS"},
                {.name = "output",
                 .letter = 'o',
                 .placeholder = "FORMAT",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.output; },
                 .choices = {"md", "json", "csv"},
                 .help = "md (Markdown), json or csv"},
                {.name = "save",
                 .placeholder = "FILE",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.save; },
                 .unset = "none",
                 .help = "JSON with every request, for --compare"},
                {.name = "plot",
                 .placeholder = "FILE",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.plot; },
                 .unset = "none",
                 .help = "SVG of TTFT, ITL and tokens/s"},
                {.name = "repetitions",
                 .is_common = false,
                 .placeholder = "N",
                 .target = [](Settings& s) -> Target { return &s.bench_serve.repetitions; },
                 .min = 1,
                 .max = 1000,
                 .help = "pairs of runs of an own server",
                 .detail = "The medians are shown."}});
}

absl::Status Contradiction(std::string message) { return absl::InvalidArgumentError(message); }

}  // namespace

std::vector<OptionSpec> BenchServeOptions() {
  std::vector<OptionSpec> all;
  for (const auto& group : {CommandOptions(), LoadOptions(), WorkloadOptions(), ReportOptions()}) {
    all.insert(all.end(), group.begin(), group.end());
  }
  return all;
}

absl::Status CheckBenchServe(const BenchServeArguments& arguments,
                             const std::map<std::string, std::string>& given) {
  const auto has = [&](const char* name) { return given.count(name) > 0; };
  if (has("compare")) {
    if (arguments.compare.size() != 2) {
      return Contradiction("--compare takes two files, once: --compare A.json B.json");
    }
    for (const auto& [name, where] : given) {
      if (name == "compare" || name == "output" || name == "config" || !where.starts_with("--"))
        continue;
      return Contradiction(absl::StrFormat(
          "%s and --compare contradict each other: two files are compared and nothing is run",
          where));
    }
    return absl::OkStatus();
  }
  for (const auto& [one, other, why] :
       {std::tuple("rate", "concurrency", "the one is an open loop, the other a closed one"),
        std::tuple("requests", "duration", "both say when a run ends"),
        std::tuple("stream", "unary", "a call is the one or the other"),
        std::tuple("prompts", "prompt-tokens", "the prompts of the file have their own lengths"),
        std::tuple("prompts", "shared-prefix", "the prompts of the file are sent as they are"),
        std::tuple("unary", "stream-interval-tokens", "a unary answer is one message")}) {
    if (has(one) && has(other)) {
      return Contradiction(
          absl::StrFormat("--%s and --%s contradict each other: %s; drop one", one, other, why));
    }
  }
  if (!has("rate")) {
    for (const char* name : {"arrivals", "burst-size"}) {
      if (has(name)) return Contradiction(absl::StrFormat("--%s needs --rate", name));
    }
  }
  if (has("burst-size") && arguments.arrivals != "burst") {
    return Contradiction("--burst-size needs --arrivals burst");
  }
  if (!arguments.connect.empty()) {
    // What is written in the environment or a file may be meant for other commands.
    for (const char* name :
         {"model", "load-format", "model-shape", "dummy-seed", "dtype", "weights", "device",
          "threads", "cpu-isa", "max-step-rows", "kv-type", "block-tokens"}) {
      const auto found = given.find(name);
      if (found == given.end() || !found->second.starts_with("--")) continue;
      return Contradiction(absl::StrFormat(
          "%s has no effect with --connect: the server that runs has its own; drop one",
          found->second));
    }
    if (has("repetitions")) {
      return Contradiction("--repetitions is for an own server; drop it or --connect");
    }
    if (arguments.stream_interval_tokens.size() > 1) {
      return Contradiction("--stream-interval-tokens takes one value with --connect");
    }
    return absl::OkStatus();
  }
  for (const char* name : {"rate", "duration", "retry", "unary", "deadline-ms", "goodput"}) {
    if (has(name)) {
      return Contradiction(
          absl::StrFormat("--%s needs --connect HOST:PORT; without a server to connect to, only "
                          "the cost of gRPC is measured",
                          name));
    }
  }
  if (arguments.concurrency.size() > 1) {
    return Contradiction("--concurrency takes one value without --connect");
  }
  return absl::OkStatus();
}

}  // namespace tandem::server
