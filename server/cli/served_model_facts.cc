#include "server/cli/served_model_facts.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/chat/chat_tokens.h"
#include "server/config/kv_setting.h"
#include "server/grpc/digest.h"
#include "server/grpc/request_errors.h"
#include "server/text/tokenizer_json.h"

namespace tandem::server {
namespace {

namespace fs = std::filesystem;

constexpr int kFirstComparedToken = 5;

std::optional<std::string> ReadText(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) return std::nullopt;
  return text.str();
}

std::string Sha256(const std::optional<std::string>& text) {
  return text.has_value() ? Sha256Hex(*text) : "";
}

// chat_template.jinja, or what tokenizer_config.json holds instead: the template, or a list of
// named ones.
std::optional<std::string> ChatTemplate(const fs::path& directory) {
  if (std::optional<std::string> text = ReadText(directory / "chat_template.jinja")) return text;
  const auto config = nlohmann::json::parse(
      ReadText(directory / "tokenizer_config.json").value_or(""), nullptr, /*exceptions=*/false);
  if (!config.is_object() || !config.contains("chat_template")) return std::nullopt;
  const nlohmann::json& held = config["chat_template"];
  if (held.is_string()) return held.get<std::string>();
  if (!held.is_array()) return std::nullopt;
  for (const nlohmann::json& named : held) {
    if (!named.is_object() || !named.contains("name") || named["name"] != "default") continue;
    const auto text = named.find("template");
    if (text != named.end() && text->is_string()) return text->get<std::string>();
  }
  return std::nullopt;
}

fs::path TokenizerPath(const ModelSource& source) {
  return (source.dummy() ? FindDemoModel(ProgramPath()) : source.directory) / "tokenizer.json";
}

// What the layers of each group store, as they were allocated.
std::vector<KvFormatFacts> KvFormatFactsOf(const LoadedEngine& engine) {
  std::vector<KvFormatFacts> facts;
  const bool on_cpu = engine.backends.device == nullptr;
  for (const engine::KvGroup group : {engine::kSliding, engine::kFull}) {
    if (!engine.stores[group].has_value()) continue;
    std::map<std::pair<kernels::KvFormat, kernels::KvFormat>, int> layers;
    for (const kvcache::LayerKv& layer : engine.stores[group]->layout().layers) {
      ++layers[{layer.k, layer.v}];
    }
    for (const auto& [pair, count] : layers) {
      facts.push_back({.group = group,
                       .k = std::string(kvcache::KvFormatName(pair.first)),
                       .v = std::string(kvcache::KvFormatName(pair.second)),
                       .k_path = on_cpu && kernels::KvHasScale(pair.first) ? "int8" : "float",
                       .layers = count});
    }
  }
  return facts;
}

bool Has(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

absl::StatusOr<Tokenizer> LoadTokenizer(const ModelSource& source) {
  if (source.dummy() && FindDemoModel(ProgramPath()).empty()) {
    return absl::NotFoundError(
        "dummy weights borrow the demo model's tokenizer, but models/demo is not beside this "
        "program; `tandem bench model` needs none");
  }
  const fs::path path = TokenizerPath(source);
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(path.string());
  // Dummy weights have more rows than the tokenizer they borrow; a checkpoint has as many.
  if (tokenizer.ok() && (source.dummy() ? tokenizer->vocab_size() > source.config.vocab
                                        : tokenizer->vocab_size() != source.config.vocab)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s has %d tokens, but the model of config.json has a vocabulary of %d; they do not belong "
        "together",
        path.string(), tokenizer->vocab_size(), source.config.vocab));
  }
  return tokenizer;
}

absl::Status CheckAssistantTokenizer(const ModelSource& source, const Tokenizer& tokenizer) {
  if (source.dummy() || !source.assistant.has_value() || source.assistant->dummy()) {
    return absl::OkStatus();
  }
  const fs::path path = source.assistant->directory / "tokenizer.json";
  const std::optional<std::string> json = ReadText(path);
  if (!json.has_value() || json == ReadText(TokenizerPath(source))) return absl::OkStatus();
  const absl::StatusOr<TokenizerTables> tables = ReadTokenizerJson(*json, path.string());
  if (!tables.ok()) return tables.status();
  const int size = static_cast<int>(tables->pieces.size());
  if (size != tokenizer.vocab_size()) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s has %d tokens, the model's tokenizer has %d; they do not belong "
                        "together",
                        path.string(), size, tokenizer.vocab_size()));
  }
  for (int id = kFirstComparedToken; id < size; ++id) {
    if (tables->pieces[id] == tokenizer.vocabulary().Piece(id)) continue;
    return absl::FailedPreconditionError(absl::StrFormat(
        "token %d is %s in %s, but %s in the model's tokenizer; they do not belong together", id,
        Printable(tables->pieces[id]), path.string(), Printable(tokenizer.vocabulary().Piece(id))));
  }
  return absl::OkStatus();
}

absl::StatusOr<Tokenizer> LoadTokenizers(const Settings& settings, const ModelSource& source) {
  absl::StatusOr<Tokenizer> tokenizer = LoadTokenizer(source);
  if (!tokenizer.ok()) return tokenizer;
  if (absl::Status s = CheckAssistantTokenizer(source, *tokenizer); !s.ok()) {
    return AssistantTrouble(settings, source.assistant->directory, s);
  }
  return tokenizer;
}

bool IsInstruct(const engine::ModelConfig& config, const Tokenizer& tokenizer) {
  const std::optional<int32_t> end_of_turn = tokenizer.vocabulary().Find("<turn|>");
  const std::vector<int32_t>& eos = config.generation.eos_ids;
  return end_of_turn.has_value() && std::find(eos.begin(), eos.end(), *end_of_turn) != eos.end();
}

ChatFormat ChatFormatOf(const ModelSource& source) {
  std::optional<std::string> text;
  if (!source.dummy()) text = ChatTemplate(source.directory);
  return ChatFormatOf(text, source.config.ple_width);
}

engine::SamplingParams DefaultSampling(const Settings& settings,
                                       const engine::ModelConfig& config) {
  engine::SamplingParams sampling;
  if (settings.sampling_defaults == "neutral") return sampling;
  sampling.temperature = config.generation.temperature;
  sampling.top_k = config.generation.top_k;
  sampling.top_p = config.generation.top_p;
  return sampling;
}

ServedModel DescribeModel(const Settings& settings, const ModelSource& source,
                          const Tokenizer& tokenizer, const LoadedEngine& engine,
                          int max_prompt_tokens) {
  const engine::ModelConfig& config = source.config;
  ServedModel model;
  model.name = source.name;
  model.architecture = config.model_type;
  model.variant = source.variant;
  model.parameters = CountParameters(config);
  model.weight_format = "bf16";
  model.context_length = engine.memory.max_context;
  model.max_prompt_tokens = max_prompt_tokens;
  model.vocab_size = config.vocab;
  model.sliding_window = config.sliding_window;
  model.layers = config.num_layers();
  for (const engine::LayerDesc& layer : config.layers) model.full_attention_layers += layer.full;
  model.kv_format = KvText(engine.kv_formats);
  model.kv_block_tokens = settings.block_tokens;
  for (const engine::KvGroup group : {engine::kSliding, engine::kFull}) {
    model.kv_blocks_total += engine.memory.num_blocks[group];
    model.kv_bytes_per_token += static_cast<double>(engine.memory.kv.bytes_per_token(group));
  }
  model.default_sampling = DefaultSampling(settings, config);
  model.eos_ids = config.generation.eos_ids;
  model.bos_id = config.bos_id;
  model.pad_id = config.pad_id;
  model.tokenizer_sha256 = Sha256(ReadText(TokenizerPath(source)));
  if (!source.dummy()) model.chat_template_sha256 = Sha256(ChatTemplate(source.directory));
  const ChatTokens chat = FindChatTokens(tokenizer.vocabulary());
  model.has_chat =
      chat.turn_open != ChatTokens::kMissing && chat.turn_close != ChatTokens::kMissing;
  model.chat_format = ChatFormatOf(source);
  model.capabilities = {"logprobs", "prompt_logprobs", "deterministic"};
  if (source.assistant.has_value()) {
    const AssistantSource& assistant = *source.assistant;
    model.drafter =
        ServedDrafter{.name = assistant.name,
                      .layers = assistant.config.num_layers(),
                      .max_draft_tokens = assistant.max_draft_tokens,
                      .weight_format = "bf16",
                      .default_mode = DefaultSpeculation(settings, source.assistant).mode};
    model.capabilities.push_back("speculative");
  }
  if (model.has_chat) model.capabilities.insert(model.capabilities.end(), {"chat", "tools"});
  if (settings.prefix_cache != "off") model.capabilities.push_back("prefix_cache");
  const kernels::DeviceBackend* const device = engine.backends.device.get();
  model.backend = device != nullptr ? "cuda" : "cpu";
  model.device_name = device != nullptr ? device->info().name : CpuModelName();
  return model;
}

ModelFacts FactsOf(const ServedModel& model, const LoadedEngine& engine) {
  ModelFacts facts = {
      .architecture = model.architecture,
      .revision = model.revision,
      .weight_format = model.weight_format,
      .kv_format = model.kv_format,
      .backend = model.backend,
      .drafter = model.drafter.has_value() ? model.drafter->name : "",
      .kv_block_tokens = model.kv_block_tokens,
      .kv_blocks = engine.memory.num_blocks[engine::kFull],
      .prefix_cache = Has(model.capabilities, "prefix_cache"),
      .kv_formats = KvFormatFactsOf(engine),
      .max_draft_tokens = model.drafter.has_value() ? model.drafter->max_draft_tokens : 0};
  for (const engine::KvGroup group : {engine::kSliding, engine::kFull}) {
    facts.kv_bytes_per_token[group] = static_cast<int64_t>(engine.memory.kv.bytes_per_token(group));
  }
  return facts;
}

}  // namespace tandem::server
