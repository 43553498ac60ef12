#include "server/config/option_table.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>

#include "absl/strings/str_format.h"
#include "scheduler/request.h"
#include "server/config/bench_model_options.h"
#include "server/config/bench_serve_options.h"

namespace tandem::server {
namespace {

constexpr unsigned kServe = Bit(Verb::kServe);
constexpr unsigned kChat = Bit(Verb::kChat);
constexpr unsigned kRun = Bit(Verb::kRun);
constexpr unsigned kInspect = Bit(Verb::kInspect);
constexpr unsigned kBench = Bit(Verb::kBenchModel);
constexpr unsigned kDoctor = Bit(Verb::kDoctor);
constexpr unsigned kHealth = Bit(Verb::kHealth);
constexpr unsigned kConfig = Bit(Verb::kConfig);
constexpr unsigned kCompletions = Bit(Verb::kCompletions);
constexpr unsigned kBenchServe = Bit(Verb::kBenchServe);
constexpr unsigned kBenchAccept = Bit(Verb::kBenchAccept);
constexpr unsigned kLoads =
    kServe | kChat | kRun | kBench | kBenchAccept | kBenchServe;  // verbs that load weights
constexpr unsigned kPlans = kLoads | kInspect | kDoctor;          // verbs that say what fits

constexpr double kAnyInt = 2147483647.0;

absl::Status CheckDraftModel(std::string_view text) {
  if (!text.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError("auto, none or a directory is expected");
}

absl::Status CheckHttpAddress(std::string_view text) {
  return text == "off" ? absl::OkStatus() : CheckAddress(text);
}

std::vector<OptionSpec> MakeOptions() {
  // Settings first, by group; `tandem config` takes all of them.
  std::vector<OptionSpec> options = {
      {.name = "model",
       .letter = 'm',
       .group = Group::kModel,
       .verbs = kPlans,
       .placeholder = "DIR",
       .target = [](Settings& s) -> Target { return &s.model; },
       .unset = "the demo model",
       .help = "checkpoint directory",
       .detail =
           "As Hugging Face lays it out: config.json, tokenizer.json and *.safetensors in bf16. "
           "Without it the demo model "
           "that comes with Tandem is used."},
      {.name = "served-model-name",
       .group = Group::kModel,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "NAME",
       .target = [](Settings& s) -> Target { return &s.served_model_name; },
       .unset = "the directory's name",
       .help = "model name that clients see and may ask for"},
      {.name = "load-format",
       .group = Group::kModel,
       .verbs = kPlans,
       .placeholder = "FORMAT",
       .target = [](Settings& s) -> Target { return &s.load_format; },
       .choices = {"auto", "safetensors", "dummy"},
       .help = "auto, safetensors or dummy (random)",
       .detail = "dummy fills the shape named by --model-shape with seeded random values, so that "
                 "speed can be measured without a checkpoint."},
      {.name = "model-shape",
       .group = Group::kModel,
       .verbs = kPlans,
       .placeholder = "SHAPE",
       .target = [](Settings& s) -> Target { return &s.model_shape; },
       .choices = {"e2b", "e4b", "12b", "26b", "31b"},
       .unset = "none",
       .help = "e2b, e4b, 12b, 26b or 31b, for dummy",
       .detail = "Needs --load-format dummy."},
      {.name = "dummy-seed",
       .group = Group::kModel,
       .verbs = kLoads,
       .is_common = false,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.dummy_seed; },
       .help = "seed of the values of --load-format dummy"},
      {.name = "dtype",
       .group = Group::kModel,
       .verbs = kPlans,
       .placeholder = "TYPE",
       .target = [](Settings& s) -> Target { return &s.dtype; },
       .choices = {"bf16", "f32"},
       .help = "activations in products: bf16 or f32",
       .detail = "Weights stay bf16. f32 also makes the KV cache f32 unless --kv-type says "
                 "otherwise: slower, and as close as possible to the reference."},

      {.name = "device",
       .group = Group::kHardware,
       .verbs = kLoads | kDoctor,
       .is_common = false,
       .placeholder = "DEVICE",
       .target = [](Settings& s) -> Target { return &s.device; },
       .choices = {"auto", "cpu", "cuda"},
       .help = "where the model runs: auto, cpu or cuda",
       .detail = "This build has no CUDA backend: auto is cpu, and cuda is refused."},
      {.name = "threads",
       .letter = 't',
       .group = Group::kHardware,
       .verbs = kLoads | kDoctor,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.threads; },
       .min = 0,
       .max = 1024,
       .unset = "all granted",
       .help = "CPU threads of the model",
       .detail = "By default one per CPU of the affinity mask, at most the cgroup's quota."},
      {.name = "cpu-isa",
       .group = Group::kHardware,
       .verbs = kLoads | kDoctor,
       .is_common = false,
       .placeholder = "ISA",
       .target = [](Settings& s) -> Target { return &s.cpu_isa; },
       .choices = {"auto", "ref", "avx2", "avx512", "avx512bf16"},
       .help = "highest instruction set to use",
       .detail = "auto takes the best that the machine has; ref is the plain loops."},

      {.name = "max-slots",
       .group = Group::kScheduling,
       .verbs = kServe | kInspect | kDoctor,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.max_slots; },
       .min = 1,
       .max = 1024,
       .help = "sequences running at the same time"},
      {.name = "max-context",
       .letter = 'c',
       .group = Group::kScheduling,
       .verbs = kServe | kChat | kRun | kInspect | kDoctor,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.max_context; },
       .min = 0,
       .max = 1 << 20,
       .unset = "what fits",
       .help = "tokens of prompt and answer",
       .detail = "0 is automatic: the model's limit, or less when the KV cache is smaller."},
      {.name = "max-step-rows",
       .group = Group::kScheduling,
       .verbs = kPlans,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.max_step_rows; },
       .min = 16,
       .max = 65536,
       .help = "tokens in one forward of the model",
       .detail = "Bounds the chunk of a prompt that one step takes, and sizes the activation "
                 "buffers. More is faster for prompts and needs more memory."},
      {.name = "step-target-ms",
       .group = Group::kScheduling,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "MS",
       .target = [](Settings& s) -> Target { return &s.step_target_ms; },
       .min = 1,
       .max = 60000,
       .help = "longest step while others are decoding",
       .detail = "Prompt chunks shrink so that a step takes about so long: a running answer "
                 "never waits much longer than this for its next token."},
      {.name = "max-queued-requests",
       .group = Group::kScheduling,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.max_queued_requests; },
       .min = 1,
       .max = 1000000,
       .help = "requests that may wait; more are refused"},
      {.name = "max-queued-tokens",
       .group = Group::kScheduling,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.max_queued_tokens; },
       .min = 0,
       .max = kAnyInt,
       .unset = "4 x the KV cache",
       .help = "prompt tokens that may wait; more are refused"},
      {.name = "max-queued-mib",
       .group = Group::kScheduling,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "MIB",
       .target = [](Settings& s) -> Target { return &s.max_queued_mib; },
       .min = 1,
       .max = 1048576,
       .help = "memory of waiting requests; more are refused"},
      {.name = "max-queued-per-tenant",
       .group = Group::kScheduling,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.max_queued_per_tenant; },
       .min = 0,
       .max = 1000000,
       .unset = "no limit",
       .help = "requests of one tenant that may wait"},
      {.name = "reject-hopeless",
       .group = Group::kScheduling,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "WHEN",
       .target = [](Settings& s) -> Target { return &s.reject_hopeless; },
       .choices = {"on", "off"},
       .help = "on: refuse what can not start before its deadline",
       .detail = "The time to the first token is predicted from the queue and the measured speed "
                 "of prompts; before that is known nothing is refused."},

      {.name = "kv-type",
       .group = Group::kKvCache,
       .verbs = kPlans,
       .placeholder = "TYPE",
       .target = [](Settings& s) -> Target { return &s.kv_type; },
       .choices = {"auto", "bf16", "f32"},
       .help = "keys and values: bf16 or f32",
       .detail = "auto is bf16, or f32 with --dtype f32."},
      {.name = "kv-memory",
       .group = Group::kKvCache,
       .verbs = kServe | kChat | kRun | kInspect | kDoctor,
       .placeholder = "SIZE",
       .target = [](Settings& s) -> Target { return &s.kv_memory; },
       .help = "such as 4GiB, or 60% of what is free",
       .detail =
           "auto is room for --max-slots sequences of --max-context tokens (of 8192 where that "
           "is automatic), but at most 70% of what the weights leave free. What all slots "
           "together can not use is not taken."},
      {.name = "block-tokens",
       .group = Group::kKvCache,
       .verbs = kPlans,
       .is_common = false,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.block_tokens; },
       .min = 16,
       .max = 64,
       .choices = {"16", "32", "64"},
       .help = "tokens in one block of the KV cache"},

      {.name = "draft-model",
       .group = Group::kSpeculation,
       .verbs = kPlans,
       .placeholder = "DIR",
       .target = [](Settings& s) -> Target { return &s.draft_model; },
       .check = CheckDraftModel,
       .help = "assistant that guesses ahead; auto or none",
       .detail = "A checkpoint of the assistant that was made for the model. auto takes "
                 "assistant/ inside the model's directory if it is there, and for dummy weights "
                 "the published shape; none goes without. Guesses change the speed, never the "
                 "text."},
      {.name = "spec-mode",
       .group = Group::kSpeculation,
       .verbs = kPlans,
       .placeholder = "MODE",
       .target = [](Settings& s) -> Target { return &s.spec_mode; },
       .choices = {"auto", "off", "fixed"},
       .help = "guess as pays off, never, or always",
       .detail = "auto guesses as many tokens as measured acceptance and step times make worth "
                 "their while, possibly none; fixed always guesses --spec-max-draft; off does not "
                 "load the assistant. A request may ask for less, or for another mode."},
      {.name = "spec-max-draft",
       .group = Group::kSpeculation,
       .verbs = kPlans,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.spec_max_draft; },
       .min = 0,
       .max = scheduler::kMaxDraftTokens,
       .unset = "the assistant's",
       .help = "most tokens to guess at a time",
       .detail = "0 is num_assistant_tokens of the assistant's generation_config.json, else what "
                 "suits its published shape, else 3."},

      {.name = "default-max-tokens",
       .group = Group::kRequests,
       .verbs = kServe,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.default_max_tokens; },
       .min = 0,
       .max = 1 << 20,
       .unset = "the context",
       .help = "answer tokens if none asked"},
      {.name = "sampling-defaults",
       .group = Group::kRequests,
       .verbs = kServe | kChat | kRun,
       .placeholder = "SET",
       .target = [](Settings& s) -> Target { return &s.sampling_defaults; },
       .choices = {"model", "neutral"},
       .help = "model or neutral (temp. 1, no cuts)",
       .detail = "What a request leaves out comes from the model's generation_config.json, or is "
                 "temperature 1 without top-k and top-p."},
      {.name = "max-n",
       .group = Group::kRequests,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.max_n; },
       .min = 1,
       .max = 128,
       .help = "most choices that one request may ask for"},
      {.name = "max-prompt-logprob-tokens",
       .group = Group::kRequests,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.max_prompt_logprob_tokens; },
       .min = 0,
       .max = 1 << 20,
       .help = "longest prompt that may be scored"},
      {.name = "default-deadline-s",
       .group = Group::kRequests,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "S",
       .target = [](Settings& s) -> Target { return &s.default_deadline_s; },
       .min = 0,
       .max = 604800,
       .unset = "none",
       .help = "deadline of calls without one"},
      {.name = "default-queue-timeout-ms",
       .group = Group::kRequests,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "MS",
       .target = [](Settings& s) -> Target { return &s.default_queue_timeout_ms; },
       .min = 0,
       .max = 86400000,
       .unset = "none",
       .help = "longest wait of requests without a limit of their own"},
      {.name = "stream-buffer-tokens",
       .group = Group::kRequests,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.stream_buffer_tokens; },
       .min = 16,
       .max = 1048576,
       .help = "tokens that a slow reader may be behind",
       .detail = "A stream further behind than this, or than 1 MiB, is paused or ended: "
                 "--slow-consumer."},
      {.name = "slow-consumer",
       .group = Group::kRequests,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "POLICY",
       .target = [](Settings& s) -> Target { return &s.slow_consumer; },
       .choices = {"pause", "abort"},
       .help = "pause or abort streams that are not read",
       .detail = "pause stops generating until the client has caught up, and ends the request "
                 "after --slow-consumer-timeout-s; abort ends it at once. Either way with ABORTED "
                 "SLOW_CONSUMER."},
      {.name = "slow-consumer-timeout-s",
       .group = Group::kRequests,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "S",
       .target = [](Settings& s) -> Target { return &s.slow_consumer_timeout_s; },
       .min = 1,
       .max = 86400,
       .help = "longest pause for a slow reader"},

      {.name = "grpc-listen",
       .group = Group::kNetwork,
       .verbs = kServe | kDoctor,
       .placeholder = "ADDR",
       .target = [](Settings& s) -> Target { return &s.grpc_listen; },
       .check = CheckAddress,
       .help = "gRPC HOST:PORT, repeatable",
       .detail = "Several addresses: repeat the flag, separate them by commas in the environment, "
                 "use an array in the TOML file. Port 0 takes a free port."},
      {.name = "http-listen",
       .group = Group::kNetwork,
       .verbs = kServe | kDoctor,
       .placeholder = "ADDR",
       .target = [](Settings& s) -> Target { return &s.http_listen; },
       .check = CheckHttpAddress,
       .help = "metrics and probes, or off",
       .detail = "HOST:PORT; port 0 takes a free port; off opens none."},
      {.name = "grpc-max-recv-mib",
       .group = Group::kNetwork,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "MIB",
       .target = [](Settings& s) -> Target { return &s.grpc_max_recv_mib; },
       .min = 1,
       .max = 1024,
       .help = "largest gRPC message from a client"},
      {.name = "drain-grace-s",
       .group = Group::kNetwork,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "S",
       .target = [](Settings& s) -> Target { return &s.drain_grace_s; },
       .min = 0,
       .max = 3600,
       .help = "seconds after SIGTERM in which calls are still taken",
       .detail = "Readiness turns off at once; load balancers need a moment to notice. On a "
                 "terminal there is no grace."},
      {.name = "drain-timeout-s",
       .group = Group::kNetwork,
       .verbs = kServe,
       .placeholder = "S",
       .target = [](Settings& s) -> Target { return &s.drain_timeout_s; },
       .min = 0,
       .max = 86400,
       .help = "seconds to finish after SIGTERM"},
      {.name = "stall-timeout-s",
       .group = Group::kNetwork,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "S",
       .target = [](Settings& s) -> Target { return &s.stall_timeout_s; },
       .min = 1,
       .max = 86400,
       .help = "a busy engine silent for so long is not alive",
       .detail = "The liveness probe fails then, so that the process is restarted."},
      {.name = "grpc-max-connection-age-s",
       .group = Group::kNetwork,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "S",
       .target = [](Settings& s) -> Target { return &s.grpc_max_connection_age_s; },
       .min = 0,
       .max = 604800,
       .unset = "never",
       .help = "close connections of this age, so that load moves"},
      {.name = "reflection",
       .group = Group::kNetwork,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "WHEN",
       .target = [](Settings& s) -> Target { return &s.reflection; },
       .choices = {"on", "off"},
       .help = "on: answer gRPC reflection"},
      {.name = "replica",
       .group = Group::kNetwork,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "NAME",
       .target = [](Settings& s) -> Target { return &s.replica; },
       .unset = "the host name",
       .help = "name of this process in answers"},

      {.name = "metric-tenants",
       .group = Group::kLogging,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "NAME",
       .target = [](Settings& s) -> Target { return &s.metric_tenants; },
       .unset = "none",
       .help = "tenant with a series of its own, repeatable",
       .detail =
           "tandem_tenant_tokens_total counts the tokens of each, and of all others together."},
      {.name = "log-format",
       .group = Group::kLogging,
       .verbs = kServe,
       .is_common = false,
       .placeholder = "FORMAT",
       .target = [](Settings& s) -> Target { return &s.log_format; },
       .choices = {"auto", "text", "json"},
       .help = "text, json or auto: text on a terminal",
       .detail = "auto is text on a terminal and JSON lines elsewhere."},
      {.name = "log-level",
       .group = Group::kLogging,
       .verbs = kServe,
       .placeholder = "LEVEL",
       .target = [](Settings& s) -> Target { return &s.log_level; },
       .choices = {"debug", "info", "warn", "error"},
       .help = "debug, info, warn or error"},
  };
  for (OptionSpec& option : options) option.verbs |= kConfig;
  const std::vector<OptionSpec> arguments = {
      {.name = "config",
       .verbs = kPlans | kConfig,
       .placeholder = "FILE",
       .target = [](Settings& s) -> Target { return &s.config; },
       .unset = "none",
       .help = "settings from a TOML file"},

      {.name = "prompt",
       .letter = 'p',
       .verbs = kRun,
       .is_setting = false,
       .placeholder = "TEXT",
       .target = [](Settings& s) -> Target { return &s.run.prompt; },
       .unset = "standard input",
       .help = "what to answer; - reads standard input"},
      {.name = "connect",
       .verbs = kChat,
       .is_setting = false,
       .placeholder = "ADDR",
       .target = [](Settings& s) -> Target { return &s.chat.connect; },
       .check = CheckAddress,
       .unset = "a model in this process",
       .help = "gRPC HOST:PORT of a server to talk to"},
      {.name = "system",
       .verbs = kChat,
       .is_setting = false,
       .placeholder = "TEXT",
       .target = [](Settings& s) -> Target { return &s.chat.system; },
       .unset = "nothing",
       .help = "what the model is told first"},
      {.name = "load",
       .verbs = kChat,
       .is_setting = false,
       .placeholder = "FILE",
       .target = [](Settings& s) -> Target { return &s.chat.load; },
       .unset = "none",
       .help = "go on with a conversation of /save"},
      {.name = "thinking",
       .verbs = kChat,
       .is_setting = false,
       .target = [](Settings& s) -> Target { return &s.chat.thinking; },
       .help = "let the model think first, shown dimmed"},
      {.name = "max-tokens",
       .letter = 'n',
       .verbs = kChat | kRun,
       .is_setting = false,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.run.max_tokens; },
       .min = 0,
       .max = 1 << 20,
       .unset = "until it ends",
       .help = "longest answer in tokens"},
      {.name = "temperature",
       .verbs = kChat | kRun,
       .is_setting = false,
       .placeholder = "T",
       .target = [](Settings& s) -> Target { return &s.run.temperature; },
       .min = 0,
       .max = 10,
       .unset = "the model's",
       .help = "0 takes the most likely token"},
      {.name = "top-k",
       .verbs = kChat | kRun,
       .is_setting = false,
       .placeholder = "K",
       .target = [](Settings& s) -> Target { return &s.run.top_k; },
       .min = 0,
       .max = kAnyInt,
       .unset = "the model's",
       .help = "draw from the K most likely; 0: all"},
      {.name = "top-p",
       .verbs = kChat | kRun,
       .is_setting = false,
       .placeholder = "P",
       .target = [](Settings& s) -> Target { return &s.run.top_p; },
       .min = 1e-6,
       .max = 1,
       .unset = "the model's",
       .help = "draw from the smallest set of mass P"},
      {.name = "min-p",
       .verbs = kRun,
       .is_setting = false,
       .placeholder = "P",
       .target = [](Settings& s) -> Target { return &s.run.min_p; },
       .min = 0,
       .max = 1,
       .unset = "0",
       .help = "drop what is below P times the best"},
      {.name = "seed",
       .verbs = kChat | kRun,
       .is_setting = false,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.run.seed; },
       .unset = "random",
       .help = "the same seed draws the same text"},
      {.name = "stop",
       .verbs = kRun,
       .is_setting = false,
       .placeholder = "TEXT",
       .target = [](Settings& s) -> Target { return &s.run.stop; },
       .unset = "none",
       .help = "end before this text, repeatable"},
      {.name = "raw",
       .verbs = kRun,
       .is_setting = false,
       .target = [](Settings& s) -> Target { return &s.run.raw; },
       .help = "continue the text, no chat turns around it"},
      {.name = "json",
       .verbs = kRun | kInspect | kDoctor | kHealth,
       .is_setting = false,
       .target = [](Settings& s) -> Target { return &s.json; },
       .help = "print one JSON object"},

      {.name = "prompt",
       .letter = 'p',
       .verbs = kBench,
       .is_setting = false,
       .placeholder = "N,..",
       .target = [](Settings& s) -> Target { return &s.bench.prompt; },
       .min = 0,
       .max = 1 << 20,
       .help = "prompt tokens of the pp tests; 0: none"},
      {.name = "generate",
       .letter = 'n',
       .verbs = kBench,
       .is_setting = false,
       .placeholder = "N,..",
       .target = [](Settings& s) -> Target { return &s.bench.generate; },
       .min = 0,
       .max = 1 << 20,
       .help = "tokens per stream of tg tests; 0: none"},
      {.name = "streams",
       .letter = 's',
       .verbs = kBench,
       .is_setting = false,
       .placeholder = "N,..",
       .target = [](Settings& s) -> Target { return &s.bench.streams; },
       .min = 1,
       .max = 1024,
       .unset = "1,16; --compare 1,4,16,64",
       .help = "that decode together"},
      {.name = "repetitions",
       .letter = 'r',
       .verbs = kBench,
       .is_setting = false,
       .placeholder = "N",
       .target = [](Settings& s) -> Target { return &s.bench.repetitions; },
       .min = 1,
       .max = 1000,
       .help = "runs or pairs per test; the median is shown"},
      {.name = "output",
       .letter = 'o',
       .verbs = kBench,
       .is_setting = false,
       .placeholder = "FORMAT",
       .target = [](Settings& s) -> Target { return &s.bench.output; },
       .choices = {"md", "json", "csv"},
       .help = "md (Markdown), json or csv"},

      {.name = "address",
       .verbs = kHealth,
       .is_setting = false,
       .placeholder = "ADDR",
       .target = [](Settings& s) -> Target { return &s.health.address; },
       .check = CheckAddress,
       .help = "gRPC HOST:PORT of the server"},
      {.name = "service",
       .verbs = kHealth,
       .is_setting = false,
       .placeholder = "NAME",
       .target = [](Settings& s) -> Target { return &s.health.service; },
       .help = "readiness, liveness or a gRPC service"},
      {.name = "timeout-ms",
       .verbs = kHealth,
       .is_setting = false,
       .placeholder = "MS",
       .target = [](Settings& s) -> Target { return &s.health.timeout_ms; },
       .min = 1,
       .max = 600000,
       .help = "longest wait for the answer"},

      {.name = "shell",
       .verbs = kCompletions,
       .is_setting = false,
       .placeholder = "SHELL",
       .target = [](Settings& s) -> Target { return &s.shell; },
       .choices = {"bash", "zsh", "fish"},
       .unset = "none",
       .help = "bash, zsh or fish"},

      {.name = "docs",
       .verbs = kConfig,
       .is_setting = false,
       .target = [](Settings& s) -> Target { return &s.docs; },
       .help = "print the page that describes all options"},
  };
  options.insert(options.begin(), arguments.begin(), arguments.end());
  for (const auto& more : {BenchCompareOptions(), BenchAcceptOptions(), BenchServeOptions()}) {
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
  static constexpr std::array<VerbSpec, 11> kVerbs = {{
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
