#include "server/grpc/model_messages.h"

#include "absl/strings/str_cat.h"
#include "server/grpc/digest.h"

namespace tandem::server {

v1::ModelInfo ToModelInfo(const ServedModel& model) {
  v1::ModelInfo info;
  info.set_name(model.name);
  info.mutable_aliases()->Add(model.aliases.begin(), model.aliases.end());
  info.set_revision(model.revision);
  info.set_architecture(model.architecture);
  info.set_variant(model.variant);
  info.set_parameters(model.parameters);
  info.set_weight_format(model.weight_format);
  info.set_context_length(static_cast<uint32_t>(model.context_length));
  info.set_max_prompt_tokens(static_cast<uint32_t>(model.max_prompt_tokens));
  info.set_vocab_size(static_cast<uint32_t>(model.vocab_size));
  info.set_sliding_window(static_cast<uint32_t>(model.sliding_window));
  info.set_layers(static_cast<uint32_t>(model.layers));
  info.set_full_attention_layers(static_cast<uint32_t>(model.full_attention_layers));
  info.set_kv_format(model.kv_format);
  info.set_kv_block_size(static_cast<uint32_t>(model.kv_block_tokens));
  info.set_kv_blocks_total(static_cast<uint64_t>(model.kv_blocks_total));
  info.set_kv_bytes_per_token(model.kv_bytes_per_token);
  v1::DrafterInfo& drafter = *info.mutable_drafter();
  drafter.set_loaded(model.drafter.has_value());
  if (model.drafter.has_value()) {
    drafter.set_name(model.drafter->name);
    drafter.set_layers(static_cast<uint32_t>(model.drafter->layers));
    drafter.set_max_draft_tokens(static_cast<uint32_t>(model.drafter->max_draft_tokens));
    drafter.set_weight_format(model.drafter->weight_format);
  }
  v1::SamplingParams& sampling = *info.mutable_default_sampling();
  sampling.set_temperature(model.default_sampling.temperature);
  sampling.set_top_k(model.default_sampling.top_k);
  sampling.set_top_p(model.default_sampling.top_p);
  info.mutable_eos_token_ids()->Add(model.eos_ids.begin(), model.eos_ids.end());
  info.set_bos_token_id(static_cast<uint32_t>(model.bos_id));
  info.set_pad_token_id(static_cast<uint32_t>(model.pad_id));
  info.set_tokenizer_sha256(model.tokenizer_sha256);
  info.set_chat_template_sha256(model.chat_template_sha256);
  info.mutable_capabilities()->Add(model.capabilities.begin(), model.capabilities.end());
  info.set_backend(model.backend);
  return info;
}

v1::ServerInfo ToServerInfo(const GrpcConfig& config, const ServedModel* model, Phase phase,
                            double uptime_s) {
  v1::ServerInfo info;
  info.set_version(config.version);
  info.set_git_commit(config.git_commit);
  info.set_build_flags(config.build_flags);
  info.set_uptime_s(uptime_s);
  info.set_state(std::string(PhaseName(phase)));
  info.set_replica(config.replica);
  info.add_services("tandem.v1.Generation");
  if (config.admin) info.add_services("tandem.v1.Admin");
  auto& limits = *info.mutable_limits();
  limits["max_n"] = absl::StrCat(config.max_n);
  limits["max_prompt_logprob_tokens"] = absl::StrCat(config.max_prompt_logprob_tokens);
  limits["max_recv_bytes"] = absl::StrCat(int64_t{config.max_recv_mib} << 20);
  if (model != nullptr) {
    info.set_backend(model->backend);
    info.set_device_name(model->device_name);
    limits["context_length"] = absl::StrCat(model->context_length);
    limits["max_prompt_tokens"] = absl::StrCat(model->max_prompt_tokens);
  }
  return info;
}

std::string Fingerprint(const ServedModel& model, const std::string& version) {
  // Every answer is batch-invariant, so that flag has one value.
  return ShortDigest(absl::StrCat(model.name, "\n", model.revision, "\n", model.weight_format, "\n",
                                  model.kv_format, "\n", version, "\n", model.backend,
                                  "\ndeterministic"));
}

}  // namespace tandem::server
