// Every setting and every argument of the command line, as one plain struct.
//
// Filled once at start-up (resolve.h), const from then on. The struct of each folder (scheduler,
// engine, gRPC) is filled from it by the verb that runs.
// Not here  names, ranges and help of the options: option_table.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "scheduler/config.h"

namespace tandem::server {

// An amount of memory: automatic, so many bytes, or a share of what is free.
struct MemoryAmount {
  uint64_t bytes = 0;  // 0: not given in bytes
  double share = 0.0;  // 0: not given as a share; otherwise in (0, 1]

  bool automatic() const { return bytes == 0 && share == 0.0; }
};

// Arguments of `tandem run`, the sampling ones of `tandem chat` too; what is absent is the model's
// default.
struct RunArguments {
  std::optional<std::string> prompt;  // "-": read from standard input
  int max_tokens = 0;                 // 0: until the model ends its turn
  bool raw = false;
  std::optional<double> temperature;
  std::optional<int> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
};

// Arguments of `tandem chat`.
struct ChatArguments {
  std::string connect;  // empty: the model runs in this process
  std::string system;
  std::string load;  // a file of /save
  bool thinking = false;
};

// Arguments of `tandem bench model`.
struct BenchArguments {
  std::vector<int> prompt = {512};   // prompt lengths; 0: none
  std::vector<int> generate = {64};  // generated lengths; 0: none
  std::vector<int> streams;          // empty: 1 and 16, with --compare 1, 4, 16 and 64
  int repetitions = 5;
  std::string output = "md";
  // Two ways to speculate.
  std::string compare;  // "spec-mode=off"; empty: none
  std::string prompts;  // a file
  double temperature = 0.0;
  std::string assume_acceptance;  // "0.8,0.6"; empty: acceptance is what it is
};

// Arguments of `tandem bench accept`.
struct BenchAcceptArguments {
  std::string prompts;  // a file
  int requests = 0;     // 0: all prompts
  int generate = 256;
  int streams = 1;
  double temperature = 0.0;
  std::string output = "md";
};

// Arguments of `tandem bench kv`.
struct BenchKvArguments {
  std::string model;  // whose layers to take; empty: those of the shape
  std::string model_shape = "e4b";
  std::string formats = "f32,bf16,f16,q8,turbo4,turbo3,turbo2";
  std::vector<int> context = {512, 2048, 8192, 32768};
  int sequences = 0;  // 0: as many as exceed the last-level cache
  int repetitions = 5;
  std::string output = "md";
};

// Arguments of `tandem bench kernels`.
struct BenchKernelsArguments {
  std::string model;  // whose operations; empty: those of the shape
  std::string model_shape = "e2b";
  std::string family = "all";
  int repetitions = 5;
  std::string output = "md";
};

// Arguments of `tandem bench kv-quality`.
struct BenchKvQualityArguments {
  std::string formats = "f32,f16,q8,q8/turbo4,turbo4,turbo3,turbo2";
  std::string reference = "bf16";
  std::string prompts;  // a file
  int requests = 300;   // 0: all prompts
  int generate = 256;
  int streams = 16;
  std::string output = "md";
  std::string plot;
};

// Arguments of `tandem health`.
struct HealthArguments {
  std::string address = "localhost:50051";
  std::string service = "readiness";
  int timeout_ms = 5000;
};

// Arguments of `tandem bench serve`; what is absent depends on --connect.
struct BenchServeArguments {
  std::string connect;  // empty: a server of its own
  int connections = 1;
  int retry = 0;
  std::vector<std::string> compare;  // two files
  // Load
  std::vector<int> concurrency;
  std::optional<double> rate;  // absent: closed loop
  std::string arrivals = "poisson";
  int burst_size = 8;
  std::optional<int> requests;
  std::optional<double> duration;  // seconds
  std::optional<int> warmup;
  bool stream = false;
  bool unary = false;
  int tenants = 0;
  int priority = 0;
  int deadline_ms = 0;  // 0: none
  // Workload
  std::string prompt_tokens = "128";
  std::string output_tokens = "64";
  std::string prompts;  // a file
  int shared_prefix = 0;
  bool keep_eos = false;
  std::optional<double> temperature;
  uint64_t seed = 0;
  std::vector<int> stream_interval_tokens;
  // Report
  std::string goodput;
  std::string output = "md";
  std::string save;
  std::string plot;
  int repetitions = 5;
};

struct Settings {
  // Model
  std::string model;  // empty: the demo model
  std::string served_model_name;
  std::string load_format = "auto";
  std::string model_shape;
  uint64_t dummy_seed = 0;
  std::string dtype = "bf16";
  std::string weights = "bf16";

  // Speculation
  std::string draft_model = "auto";  // none, or a directory: the model's own assistant by default
  std::string spec_mode = "auto";
  int spec_max_draft = 0;  // 0: the assistant's own

  // Hardware
  std::string device = "auto";
  int threads = 0;  // 0: one per CPU granted to the process
  std::string cpu_isa = "auto";

  // Scheduling
  int max_slots = scheduler::SchedulerConfig{}.max_slots;
  int max_context = 0;  // 0: as long as the model and the KV cache allow
  int max_step_rows = scheduler::SchedulerConfig{}.max_step_rows;
  int step_target_ms = static_cast<int>(scheduler::SchedulerConfig{}.step_target_us / 1000);
  int max_queued_requests = scheduler::SchedulerConfig{}.max_queued_requests;
  int max_queued_tokens = 0;  // 0: four times what the KV cache holds
  int max_queued_mib = 256;
  int max_queued_per_tenant = 0;  // 0: no limit
  std::string reject_hopeless = "on";

  // KV cache
  std::string kv_type = "auto";
  std::string kv_type_k;        // empty: as kv_type says
  std::string kv_type_v;        // likewise
  std::string kv_sliding_type;  // likewise
  int kv_protect_first = -1;    // -1: what preset and formats need
  int kv_protect_last = -1;     // likewise
  std::string kv_protect_type = "q8";
  MemoryAmount kv_memory;
  int block_tokens = 32;
  std::string prefix_cache = "on";

  // Requests
  int default_max_tokens = 0;  // 0: as many as the context allows
  std::string sampling_defaults = "model";
  int max_n = 8;
  int max_prompt_logprob_tokens = 8192;
  int default_deadline_s = 0;        // 0: none
  int default_queue_timeout_ms = 0;  // 0: none
  int stream_buffer_tokens = 4096;
  std::string slow_consumer = "pause";
  int slow_consumer_timeout_s = 60;

  // Network
  std::vector<std::string> grpc_listen = {"0.0.0.0:50051"};
  std::string http_listen = "0.0.0.0:8080";
  int grpc_max_recv_mib = 64;
  int drain_grace_s = 5;
  int drain_timeout_s = 120;
  int stall_timeout_s = 120;
  int grpc_max_connection_age_s = 0;  // 0: never
  std::string reflection = "on";
  std::string admin = "off";
  std::string replica;  // empty: the host name

  // Logging
  std::vector<std::string> metric_tenants;
  std::string log_format = "auto";
  std::string log_level = "info";

  // Flags only
  std::string config;  // the TOML file; TANDEM_CONFIG too
  bool json = false;   // run, inspect, doctor, health
  bool docs = false;   // config
  RunArguments run;
  ChatArguments chat;
  BenchArguments bench;
  BenchAcceptArguments bench_accept;
  BenchServeArguments bench_serve;
  BenchKvArguments bench_kv;
  BenchKvQualityArguments bench_kv_quality;
  BenchKernelsArguments bench_kernels;
  HealthArguments health;
  std::string shell;  // completions
};

}  // namespace tandem::server
