#include "server/cli/chat_local.h"

#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "scheduler/scheduler.h"
#include "server/chat/render_chat.h"
#include "server/cli/running_model.h"
#include "server/cli/served_model_facts.h"
#include "server/generation/generator.h"
#include "server/grpc/request_id.h"

namespace tandem::server {
namespace {

ChatAnswer::End EndOf(scheduler::FinishReason reason) {
  switch (reason) {
    case scheduler::FinishReason::kMaxTokens:
      return ChatAnswer::End::kMaxTokens;
    case scheduler::FinishReason::kContextLength:
      return ChatAnswer::End::kContextFull;
    case scheduler::FinishReason::kAborted:
      return ChatAnswer::End::kStopped;
    default:
      return ChatAnswer::End::kTurn;
  }
}

AnswerPiece PieceOf(OutputEvent& event) {
  AnswerPiece piece = {.reasoning = std::move(event.reasoning), .content = std::move(event.text)};
  // No tools are offered; a call all the same is shown as what it is.
  for (const ToolCallDelta& call : event.tool_calls) {
    piece.content += "[call " + call.name + " " + call.arguments + "]";
  }
  return piece;
}

}  // namespace

struct LocalChat::Impl {
  Settings settings;
  ChatFormat format;
  std::unique_ptr<RunningModel> model;
  ChatBackend backend;

  std::mutex mutex;                          // guards `running`
  std::optional<Generator::Handle> running;  // the answer that is being given

  void MakeBackend();
  absl::StatusOr<GenerationSpec> MakeSpec(const std::vector<ChatMessage>& messages,
                                          const ChatSettings& chat) const;
  ChatAnswer Ask(const std::vector<ChatMessage>& messages, const ChatSettings& chat,
                 const std::function<void(const AnswerPiece&)>& on_piece);
  void Stop();
};

void LocalChat::Impl::MakeBackend() {
  backend = {.model = model->source().name,
             .place = "in this process",
             .max_context = model->engine().memory.max_context,
             .ask =
                 [this](const std::vector<ChatMessage>& messages, const ChatSettings& chat,
                        const std::function<void(const AnswerPiece&)>& on_piece) {
                   return Ask(messages, chat, on_piece);
                 },
             .stop = [this] { Stop(); }};
}

absl::StatusOr<GenerationSpec> LocalChat::Impl::MakeSpec(const std::vector<ChatMessage>& messages,
                                                         const ChatSettings& chat) const {
  absl::StatusOr<RenderedChat> rendered =
      RenderChat({.messages = messages, .enable_thinking = chat.thinking}, format);
  if (!rendered.ok()) return rendered.status();
  GenerationSpec spec;
  SetChat(*std::move(rendered), /*separate_reasoning=*/true, spec);
  engine::SamplingParams& sampling = spec.request.sampling;
  sampling = DefaultSampling(settings, model->source().config);
  if (chat.temperature.has_value()) sampling.temperature = static_cast<float>(*chat.temperature);
  if (chat.top_k.has_value()) sampling.top_k = *chat.top_k;
  if (chat.top_p.has_value()) sampling.top_p = static_cast<float>(*chat.top_p);
  sampling.seed = chat.seed.value_or(RandomBits());
  spec.request.stop.max_tokens = chat.max_tokens > 0 ? chat.max_tokens : -1;
  spec.request.stop.eos_ids = model->source().config.generation.eos_ids;
  spec.request.speculation = DefaultSpeculation(settings, model->source().assistant);
  spec.request.client_id = "chat";
  return spec;
}

ChatAnswer LocalChat::Impl::Ask(const std::vector<ChatMessage>& messages, const ChatSettings& chat,
                                const std::function<void(const AnswerPiece&)>& on_piece) {
  absl::StatusOr<GenerationSpec> spec = MakeSpec(messages, chat);
  if (!spec.ok()) return {.status = spec.status()};
  spec->request.arrival_us = model->scheduler().now_us();

  ChatAnswer answer;
  std::mutex done;  // guards `finished`
  bool finished = false;
  std::condition_variable changed;
  const OutputSink sink = [&](OutputEvent event) {
    switch (event.kind) {
      case OutputEvent::Kind::kDelta: {
        const AnswerPiece piece = PieceOf(event);
        if (!piece.content.empty() || !piece.reasoning.empty()) on_piece(piece);
        break;
      }
      case OutputEvent::Kind::kChoiceFinished:
        answer.end = EndOf(event.reason);
        break;
      case OutputEvent::Kind::kFinished: {
        answer.status = event.status;
        answer.prompt_tokens = event.stats.prompt_tokens;
        answer.cached_prompt_tokens = event.stats.cached_prompt_tokens;
        answer.completion_tokens = event.stats.completion_tokens;
        answer.steps = static_cast<int>(event.stats.drafts.rounds);
        answer.drafted_tokens = static_cast<int>(event.stats.drafts.drafted);
        answer.accepted_tokens = static_cast<int>(event.stats.drafts.accepted);
        answer.ttft_s = static_cast<double>(event.stats.ttft_us) / 1e6;
        answer.decode_s = static_cast<double>(event.stats.decode_us) / 1e6;
        const std::lock_guard lock(done);
        finished = true;
        changed.notify_all();
        break;
      }
      default:
        break;
    }
  };
  {
    const std::lock_guard lock(mutex);
    running = model->generator().Start(*std::move(spec), sink);
  }
  {
    std::unique_lock lock(done);
    changed.wait(lock, [&] { return finished; });
  }
  {
    const std::lock_guard lock(mutex);
    running.reset();
  }
  if (answer.status.code() == absl::StatusCode::kCancelled) {  // before the first token
    answer.status = absl::OkStatus();
    answer.end = ChatAnswer::End::kStopped;
  }
  return answer;
}

void LocalChat::Impl::Stop() {
  const std::lock_guard lock(mutex);
  if (running.has_value()) model->generator().Cancel(*running, scheduler::CancelCause::kAborted);
}

absl::StatusOr<std::unique_ptr<LocalChat>> LocalChat::Load(const Settings& settings,
                                                           const Console& console) {
  auto impl = std::make_unique<Impl>();
  impl->settings = settings;
  absl::StatusOr<ModelSource> source = FindModel(settings);
  if (!source.ok()) return source.status();
  absl::StatusOr<Tokenizer> tokenizer = LoadTokenizers(settings, *source);
  if (!tokenizer.ok()) return tokenizer.status();
  if (!IsInstruct(source->config, *tokenizer)) {
    return absl::FailedPreconditionError(
        source->name +
        " was not trained to chat: its generation_config.json does not end answers with <turn|>; "
        "take an instruct model, or continue text with `tandem run --raw`");
  }
  impl->format = ChatFormatOf(*source);
  ModelStart start;
  start.memory = MemoryRequestOf(settings, *source, /*max_slots=*/1);
  start.memory.prefix_cache = settings.prefix_cache != "off";
  start.scheduler = [&](const scheduler::ModelLimits&) {
    return scheduler::SchedulerConfig{.max_slots = 1,
                                      .max_step_rows = settings.max_step_rows,
                                      .prefix_cache = settings.prefix_cache != "off"};
  };
  start.text.text_threads = 1;
  absl::StatusOr<std::unique_ptr<RunningModel>> model = RunningModel::Start(
      settings, *std::move(source), *std::move(tokenizer), console, std::move(start));
  if (!model.ok()) return model.status();
  impl->model = *std::move(model);
  impl->MakeBackend();
  return std::unique_ptr<LocalChat>(new LocalChat(std::move(impl)));
}

LocalChat::LocalChat(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

LocalChat::~LocalChat() = default;

const ChatBackend& LocalChat::backend() const { return impl_->backend; }

}  // namespace tandem::server
