#include "server/generation/generator.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "scheduler/end_status.h"
#include "scheduler/status_reason.h"
#include "server/generation/choice_stream.h"
#include "server/generation/prompt_ids.h"
#include "server/generation/text_pool.h"

namespace tandem::server {

using scheduler::CancelCause;
using scheduler::FinishReason;
using scheduler::TokenEvent;

namespace {

// One request between Start and kFinished. Everything but `control` belongs to one job at a
// time: first the one that reads the prompt, which then leaves it to the strand's.
struct Session {
  Session(Generator::Handle handle, GenerationSpec spec, OutputSink sink, TextPool& pool)
      : handle(handle),
        arrival_us(spec.request.arrival_us),
        strand(pool),
        spec(std::move(spec)),
        sink(std::move(sink)) {}

  const Generator::Handle handle;
  const int64_t arrival_us;
  Strand strand;

  GenerationSpec spec;  // without `request` and `reservation` once that is submitted
  OutputSink sink;      // empty after kFinished
  StreamRules rules;
  std::vector<ChoiceStream> choices;
  std::vector<int32_t> prompt_ids;  // until kStarted
  scheduler::RequestId request_id = 0;
  std::optional<TextPool::Clock::time_point> timer;  // when held deltas are looked at next

  // What others want of it may come before the scheduler knows the request, or while it is being
  // told.
  struct {
    std::mutex mutex;
    std::optional<CancelCause> cause;
    bool paused = false;
    std::optional<scheduler::RequestId> submitted_as;
  } control;
};

using SessionPtr = std::shared_ptr<Session>;

absl::StatusOr<StopMatcher> MatcherOf(const GenerationSpec& spec) {
  absl::StatusOr<StopMatcher> matcher = StopMatcher::Create(spec.stop, spec.include_stop);
  if (matcher.ok()) return matcher;
  return WithReason(matcher.status(),
                    {.reason = "BAD_PARAMETER", .metadata = {}, .field = "stopping.stop"});
}

// Every token that ends a turn, whatever the checkpoint lists; none with ignore_eos.
void AddChatStops(const Tokenizer& tokenizer, std::vector<int32_t>& eos_ids) {
  if (eos_ids.empty()) return;
  for (const int32_t id : StopIds(FindChatTokens(tokenizer.vocabulary()))) {
    if (std::find(eos_ids.begin(), eos_ids.end(), id) == eos_ids.end()) eos_ids.push_back(id);
  }
}

StreamRules RulesOf(const GenerationSpec& spec, const ModelText& model) {
  StreamRules rules;
  rules.tokenizer = model.tokenizer;
  rules.text = spec.text;
  rules.skip_special_tokens = spec.skip_special_tokens;
  rules.include_stop = spec.include_stop;
  const scheduler::StopParams& stop = spec.request.stop;
  rules.min_tokens = stop.min_tokens;
  rules.stop_ids = stop.stop_ids;
  rules.stop_ids.insert(rules.stop_ids.end(), stop.eos_ids.begin(), stop.eos_ids.end());
  rules.interval_tokens = spec.stream_interval_tokens;
  rules.interval = std::chrono::milliseconds(spec.stream_interval_ms);
  rules.chat = spec.chat;
  rules.request_id = spec.request.client_id;
  return rules;
}

void SendDelta(Session& session, int choice) {
  Delta delta = session.choices[choice].TakeDelta();
  OutputEvent event;
  event.kind = OutputEvent::Kind::kDelta;
  event.choice = choice;
  event.position = delta.position;
  event.tokens = std::move(delta.tokens);
  event.steps = delta.steps;
  event.drafted = delta.drafted;
  event.accepted = delta.accepted;
  event.text = std::move(delta.text);
  event.reasoning = std::move(delta.reasoning);
  event.tool_calls = std::move(delta.tool_calls);
  session.sink(std::move(event));
}

// The choice has ended: its last delta and how it ended.
void SendChoiceEnd(Session& session, int choice, int32_t stop_id) {
  const ChoiceStream& stream = session.choices[choice];
  if (stream.DeltaDue().has_value()) SendDelta(session, choice);
  OutputEvent event;
  event.kind = OutputEvent::Kind::kChoiceFinished;
  event.choice = choice;
  event.reason = *stream.ended();
  event.completion_tokens = stream.num_tokens();
  event.drafts = stream.drafts();
  if (event.reason == FinishReason::kStopString) {
    event.stop_text = stream.stop_text();
  } else {
    event.stop_id = stop_id;
  }
  session.sink(std::move(event));
}

}  // namespace

void SetChat(RenderedChat chat, bool separate_reasoning, GenerationSpec& spec) {
  spec.chat = ChatOutputRules{.starts_in_reasoning = chat.starts_in_reasoning,
                              .separate_reasoning = separate_reasoning};
  spec.prompt = TextPrompt{.text = std::move(chat.text),
                           .add_bos = false,  // it stands there already
                           .parse_special = true,
                           .client_spans = std::move(chat.client_spans)};
}

struct Generator::Impl {
  Impl(const GeneratorConfig& config, const ModelText& model, scheduler::Scheduler& scheduler)
      : config(config), model(model), scheduler(scheduler), pool(config.text_threads) {}

  absl::Status CheckOpen(Session& session);
  void ReadPrompt(const SessionPtr& session);
  absl::Status Submit(const SessionPtr& session, const StopMatcher& matcher,
                      std::vector<int32_t> ids);
  void OnTokenEvent(const SessionPtr& session, TokenEvent event);
  void OnTokens(const SessionPtr& session, TokenEvent event);
  void SendDueDeltas(const SessionPtr& session);
  void OnFinished(Session& session, TokenEvent event);
  void Finish(Session& session, absl::Status status, const scheduler::RequestStats& stats);
  // From any thread.
  void Cancel(Session& session, CancelCause cause);
  void SetPaused(Handle handle, bool paused);
  SessionPtr Find(Handle handle);  // nullptr when it is unknown or finished

  const GeneratorConfig config;
  const ModelText model;
  scheduler::Scheduler& scheduler;

  std::mutex mutex;
  std::condition_variable none_left;
  absl::flat_hash_map<Handle, SessionPtr> sessions;  // guarded by mutex; until kFinished
  Handle last_handle = 0;                            // guarded by mutex

  TextPool pool;  // last, so that its threads end before the rest goes
};

// What a request that was cancelled before the scheduler knew it ends with; OK if it was not.
absl::Status Generator::Impl::CheckOpen(Session& session) {
  std::lock_guard lock(session.control.mutex);
  if (!session.control.cause.has_value()) return absl::OkStatus();
  return scheduler::CancelStatus(*session.control.cause, /*completion_tokens=*/0);
}

// A long job.
void Generator::Impl::ReadPrompt(const SessionPtr& session) {
  absl::Status status = CheckOpen(*session);
  if (!status.ok()) return Finish(*session, std::move(status), {});
  absl::StatusOr<StopMatcher> matcher = MatcherOf(session->spec);
  if (!matcher.ok()) return Finish(*session, matcher.status(), {});
  absl::StatusOr<std::vector<int32_t>> ids = PromptIdsOf(session->spec, config, model);
  if (!ids.ok()) return Finish(*session, ids.status(), {});
  session->strand.Post([this, session, matcher = *matcher, ids = *std::move(ids)]() mutable {
    absl::Status submitted = Submit(session, matcher, std::move(ids));
    if (!submitted.ok()) Finish(*session, std::move(submitted), {});
  });
}

// On the strand, as everything that follows: events that come before this has ended wait for it.
absl::Status Generator::Impl::Submit(const SessionPtr& session, const StopMatcher& matcher,
                                     std::vector<int32_t> ids) {
  if (absl::Status status = CheckOpen(*session); !status.ok()) return status;
  if (session->spec.chat.has_value()) {
    AddChatStops(*model.tokenizer, session->spec.request.stop.eos_ids);
  }
  session->rules = RulesOf(session->spec, model);
  session->prompt_ids = ids;
  scheduler::Request request = std::move(session->spec.request);
  const int num_choices = request.n;
  request.prompt = std::move(ids);
  if (request.stop.max_tokens < 0) {
    // The scheduler ends a choice at the end of the context in any case.
    request.stop.max_tokens =
        config.default_max_tokens > 0 ? config.default_max_tokens : std::numeric_limits<int>::max();
  }
  const auto sink = [this, session](TokenEvent event) {
    session->strand.Post([this, session, event = std::move(event)]() mutable {
      OnTokenEvent(session, std::move(event));
    });
  };
  const absl::StatusOr<scheduler::RequestId> id =
      scheduler.Submit(std::move(request), sink, std::move(session->spec.reservation));
  if (!id.ok()) return id.status();
  session->request_id = *id;
  for (int i = 0; i < num_choices; ++i) session->choices.emplace_back(session->rules, matcher, i);

  std::optional<CancelCause> cause;
  {
    std::lock_guard lock(session->control.mutex);
    session->control.submitted_as = *id;
    cause = session->control.cause;
    if (session->control.paused) scheduler.Pause(*id);
  }
  if (cause.has_value()) scheduler.Cancel(*id, *cause);
  return absl::OkStatus();
}

void Generator::Impl::OnTokenEvent(const SessionPtr& session, TokenEvent event) {
  switch (event.kind) {
    case TokenEvent::Kind::kStarted: {
      OutputEvent out;
      out.kind = OutputEvent::Kind::kStarted;
      out.prompt_ids = std::move(session->prompt_ids);
      out.queue_us = event.stats.queue_us;
      out.cached_prompt_tokens = event.stats.cached_prompt_tokens;
      session->sink(std::move(out));
      return;
    }
    case TokenEvent::Kind::kPromptLogprobs: {
      OutputEvent out;
      out.kind = OutputEvent::Kind::kPromptLogprobs;
      out.first_position = event.first_position;
      out.tokens = std::move(event.tokens);
      session->sink(std::move(out));
      return;
    }
    case TokenEvent::Kind::kTokens:
      OnTokens(session, std::move(event));
      return;
    case TokenEvent::Kind::kChoiceFinished: {
      ChoiceStream& stream = session->choices[event.choice];
      if (stream.ended().has_value()) return;  // by a stop string, and told
      stream.Finish(event.reason);
      stream.SetDrafts(event.drafts);
      SendChoiceEnd(*session, event.choice, event.stop_id);
      return;
    }
    case TokenEvent::Kind::kFinished:
      OnFinished(*session, std::move(event));
      return;
  }
}

void Generator::Impl::OnTokens(const SessionPtr& session, TokenEvent event) {
  ChoiceStream& stream = session->choices[event.choice];
  if (stream.ended().has_value()) return;  // the scheduler ran ahead
  const TextPool::Clock::time_point now = TextPool::Clock::now();
  const int tokens_before = stream.num_tokens();
  for (engine::SampledToken& token : event.tokens) stream.Push(std::move(token), now);
  // The first token comes from the prompt's last row, not from a decode step.
  if (tokens_before > 0) stream.CountStep(tokens_before, event.drafted, event.accepted);
  if (stream.ended().has_value()) {
    scheduler.StopChoice(session->request_id, event.choice);
    SendChoiceEnd(*session, event.choice, /*stop_id=*/-1);
    return;
  }
  SendDueDeltas(session);
}

// Sends what is due, and comes back for what is held for a while.
void Generator::Impl::SendDueDeltas(const SessionPtr& session) {
  const TextPool::Clock::time_point now = TextPool::Clock::now();
  std::optional<TextPool::Clock::time_point> next;
  for (size_t i = 0; i < session->choices.size(); ++i) {
    const std::optional<TextPool::Clock::time_point> due = session->choices[i].DeltaDue();
    if (!due.has_value()) continue;
    if (*due <= now) {
      SendDelta(*session, static_cast<int>(i));
    } else {
      next = next.has_value() ? std::min(*next, *due) : *due;
    }
  }
  if (!next.has_value() || (session->timer.has_value() && *session->timer <= *next)) return;
  session->timer = next;
  pool.RunAt(*next, [this, session] {
    session->strand.Post([this, session] {
      session->timer.reset();
      SendDueDeltas(session);  // nothing is due any more when the request has ended
    });
  });
}

void Generator::Impl::OnFinished(Session& session, TokenEvent event) {
  const bool told_all = std::all_of(session.choices.begin(), session.choices.end(),
                                    [](const ChoiceStream& c) { return c.ended().has_value(); });
  // A stop string may have ended everything while the scheduler still ran into something else.
  if (told_all) event.status = absl::OkStatus();
  event.stats.completion_tokens = 0;
  event.stats.drafts = {};
  for (size_t i = 0; i < session.choices.size(); ++i) {
    ChoiceStream& stream = session.choices[i];
    if (!stream.ended().has_value()) {  // what was made before the failure is still the client's
      stream.Finish(FinishReason::kAborted);
      if (stream.DeltaDue().has_value()) SendDelta(session, static_cast<int>(i));
    }
    event.stats.completion_tokens += stream.num_tokens();
    scheduler::Add(event.stats.drafts, stream.drafts());
  }
  Finish(session, std::move(event.status), event.stats);
}

void Generator::Impl::Finish(Session& session, absl::Status status,
                             const scheduler::RequestStats& stats) {
  OutputEvent event;
  event.kind = OutputEvent::Kind::kFinished;
  event.status = std::move(status);
  event.stats = stats;
  // Others may hold the session.
  session.spec.reservation.Release();
  const OutputSink sink = std::exchange(session.sink, nullptr);
  sink(std::move(event));

  std::lock_guard lock(mutex);
  sessions.erase(session.handle);
  if (sessions.empty()) none_left.notify_all();
}

void Generator::Impl::Cancel(Session& session, CancelCause cause) {
  std::optional<scheduler::RequestId> id;
  {
    std::lock_guard lock(session.control.mutex);
    if (session.control.cause.has_value()) return;
    session.control.cause = cause;
    id = session.control.submitted_as;
  }
  if (id.has_value()) scheduler.Cancel(*id, cause);
}

// The scheduler is told under the lock, so that it hears the last of a pause and a resume last.
void Generator::Impl::SetPaused(Handle handle, bool paused) {
  const SessionPtr session = Find(handle);
  if (session == nullptr) return;
  std::lock_guard lock(session->control.mutex);
  if (session->control.paused == paused) return;
  session->control.paused = paused;
  if (!session->control.submitted_as.has_value()) return;
  if (paused) {
    scheduler.Pause(*session->control.submitted_as);
  } else {
    scheduler.Resume(*session->control.submitted_as);
  }
}

SessionPtr Generator::Impl::Find(Handle handle) {
  std::lock_guard lock(mutex);
  const auto it = sessions.find(handle);
  return it == sessions.end() ? nullptr : it->second;
}

Generator::Generator(const GeneratorConfig& config, const ModelText& model,
                     scheduler::Scheduler& scheduler)
    : impl_(std::make_unique<Impl>(config, model, scheduler)) {}

Generator::~Generator() {
  std::vector<SessionPtr> open;
  {
    std::lock_guard lock(impl_->mutex);
    for (const auto& [handle, session] : impl_->sessions) open.push_back(session);
  }
  for (const SessionPtr& session : open) impl_->Cancel(*session, CancelCause::kDrain);
  std::unique_lock lock(impl_->mutex);
  impl_->none_left.wait(lock, [this] { return impl_->sessions.empty(); });
}

Generator::Handle Generator::Start(GenerationSpec spec, OutputSink sink) {
  SessionPtr session;
  {
    std::lock_guard lock(impl_->mutex);
    const Handle handle = ++impl_->last_handle;
    session = std::make_shared<Session>(handle, std::move(spec), std::move(sink), impl_->pool);
    impl_->sessions.emplace(handle, session);
  }
  impl_->pool.RunLong([impl = impl_.get(), session] { impl->ReadPrompt(session); });
  return session->handle;
}

void Generator::Cancel(Handle handle, CancelCause cause) {
  const SessionPtr session = impl_->Find(handle);
  if (session != nullptr) impl_->Cancel(*session, cause);
}

void Generator::Pause(Handle handle) { impl_->SetPaused(handle, true); }

void Generator::Resume(Handle handle) { impl_->SetPaused(handle, false); }

void Generator::Describe(Handle handle,
                         std::function<void(std::optional<RequestStatusView>)> answer) {
  const SessionPtr session = impl_->Find(handle);
  if (session == nullptr) return answer(std::nullopt);
  std::optional<scheduler::RequestId> id;
  {
    std::lock_guard lock(session->control.mutex);
    id = session->control.submitted_as;
  }
  if (!id.has_value()) {
    RequestStatusView view;
    view.tokenizing = true;
    view.request.age_us = impl_->scheduler.now_us() - session->arrival_us;
    return answer(view);
  }
  impl_->scheduler.Describe(
      *id, [answer = std::move(answer)](const std::optional<scheduler::RequestView>& request) {
        if (!request.has_value()) return answer(std::nullopt);
        answer(RequestStatusView{.request = *request});
      });
}

void Generator::RunOnTextPool(std::function<void()> work) { impl_->pool.RunLong(std::move(work)); }

absl::StatusOr<std::vector<int32_t>> Generator::PromptIds(const GenerationSpec& spec) const {
  return PromptIdsOf(spec, impl_->config, impl_->model);
}

int Generator::max_prompt_tokens() const { return impl_->config.max_context - 1; }

}  // namespace tandem::server
