// What ListModels tells about the model, and what requests are checked against.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/sampling.h"
#include "scheduler/request.h"
#include "server/chat/chat_format.h"

namespace tandem::server {

// The assistant that guesses for the model.
struct ServedDrafter {
  std::string name;
  int layers = 0;
  int max_draft_tokens = 0;  // longest draft that a request can get
  std::string weight_format;
  scheduler::Speculation::Mode default_mode = scheduler::Speculation::Mode::kAuto;
};

struct ServedModel {
  std::string name;  // requests may also leave it empty, or say name:revision
  std::vector<std::string> aliases;
  std::string revision;
  std::string architecture;  // model_type of the checkpoint
  std::string variant;       // E2B, 12B, ...; empty when unknown
  uint64_t parameters = 0;
  std::string weight_format;
  int context_length = 0;     // tokens of prompt and completion together
  int max_prompt_tokens = 0;  // Generator::max_prompt_tokens()
  int vocab_size = 0;
  int sliding_window = 0;
  int layers = 0;
  int full_attention_layers = 0;
  std::string kv_format;
  int kv_block_tokens = 0;
  int64_t kv_blocks_total = 0;      // of all groups together
  double kv_bytes_per_token = 0.0;  // of a token that every layer still holds
  // temperature, top_k and top_p stand in for absent fields: generation_config.json with
  // --sampling-defaults=model, the struct's own values with neutral.
  engine::SamplingParams default_sampling;
  std::optional<ServedDrafter> drafter;
  std::vector<int32_t> eos_ids;
  int bos_id = 0;
  int pad_id = 0;
  std::string tokenizer_sha256;      // lower-case hex
  std::string chat_template_sha256;  // likewise; empty without a template
  bool has_chat = false;             // knows turns: Chat works
  ChatFormat chat_format;
  std::vector<std::string> capabilities;
  std::string backend;  // cpu, cuda
  std::string device_name;
};

}  // namespace tandem::server
