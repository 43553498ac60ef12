// What clients and dashboards are told about the loaded model.
#pragma once

#include "absl/status/statusor.h"
#include "engine/sampling.h"
#include "server/chat/chat_format.h"
#include "server/cli/loaded_engine.h"
#include "server/cli/model_source.h"
#include "server/config/settings.h"
#include "server/grpc/served_model.h"
#include "server/metrics/metrics.h"
#include "server/text/tokenizer.h"

namespace tandem::server {

// The checkpoint's tokenizer.json, which must name no id that the model does not have. Dummy
// weights borrow the demo model's: ids beyond it have no text.
absl::StatusOr<Tokenizer> LoadTokenizer(const ModelSource& source);

// Whether the assistant means the same tokens, where it comes with a tokenizer.json of its own
// (mtp.md 1.3 item 3): pieces with an id of 5 and above; those below are control tokens, whose
// names differ between releases. With dummy weights on either side nothing is compared.
//   errors  kFailedPrecondition naming the first id that differs; those of ReadTokenizerJson
absl::Status CheckAssistantTokenizer(const ModelSource& source, const Tokenizer& tokenizer);

// LoadTokenizer, and CheckAssistantTokenizer with AssistantTrouble.
absl::StatusOr<Tokenizer> LoadTokenizers(const Settings& settings, const ModelSource& source);

// Whether the model was trained to take turns: its generation_config.json ends an answer with the
// token that closes a turn.
bool IsInstruct(const engine::ModelConfig& config, const Tokenizer& tokenizer);

// Which chat template the checkpoint was trained with.
ChatFormat ChatFormatOf(const ModelSource& source);

// What a request that leaves sampling out gets: --sampling-defaults.
engine::SamplingParams DefaultSampling(const Settings& settings, const engine::ModelConfig& config);

ServedModel DescribeModel(const Settings& settings, const ModelSource& source,
                          const Tokenizer& tokenizer, const LoadedEngine& engine,
                          int max_prompt_tokens);

ModelFacts FactsOf(const ServedModel& model, const LoadedEngine& engine);

}  // namespace tandem::server
