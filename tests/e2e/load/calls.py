"""Random calls of every kind, each judged: did it end as it may?

A call is an Errand: what is asked, and when the client loses patience. `perform` runs one and returns
an Outcome whose `verdict` is one of

  ok, cancelled (by us), deadline (ours), invalid (we asked for nonsense), queue_full, draining
  closed    no server to talk to, before anything was accepted
  cut       dropped by gRPC before it reached the service: what it does with calls that arrive
            between the end of a server and the client's learning of it
  lost      accepted, then ended by something that was not the client's wish
  wrong     an untyped error, a stream out of order, another text than the same request had alone
  hung      no end within PATIENCE_S
"""

import asyncio
import dataclasses
import random
import time

import grpc
from tandem.rpc import error_details_pb2
from tandem.v1 import chat_pb2, generate_pb2, generation_pb2_grpc, params_pb2

METHODS = ("Generate", "GenerateStream", "Chat", "ChatStream")
PATIENCE_S = 120
FAILURES = ("lost", "wrong", "hung", "closed", "cut")  # unless the server is ending
WORDS = ("fox river sum of 12 and 30 count story about the a an blue quick json name age city is "
         "was and then why who 7 9 lamp \u00e9\u00e8 \U0001f642 <bos> <|turn> {\"a\": 1}").split()
DEADLINE_REASONS = ("DEADLINE", "DEADLINE_UNATTAINABLE", "QUEUE_TIMEOUT")


@dataclasses.dataclass
class Errand:
    method: str
    message: object
    cancel_after_s: float | None = None
    deadline_s: float | None = None
    is_bad: bool = False
    reference: int | None = None  # index of the text that must come out


@dataclasses.dataclass
class Outcome:
    verdict: str
    method: str
    accepted: bool  # headers or an event came: the server had taken it on
    started: float  # monotonic seconds, the same clock in all processes
    ended: float
    detail: str = ""


def channel(address):
    return grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0),
                                                       ("grpc.use_local_subchannel_pool", 1)])


def reference_errand(index):
    """One of a few requests whose answers are known: seeded, so always the same."""
    method = METHODS[index % len(METHODS)]
    message = _message(method, f"Tell me a story about a fox and {index // len(METHODS)}.")
    message.sampling.CopyFrom(params_pb2.SamplingParams(temperature=1.2, top_k=0, top_p=1,
                                                        seed=index))
    message.stopping.CopyFrom(params_pb2.StoppingParams(max_tokens=24, ignore_eos=True))
    return Errand(method, message, reference=index)


def random_errand(rng, num_references, wishes=True):
    """Anything a client may ask; with `wishes`, some are cancelled, late or nonsense."""
    if rng.random() < 0.3:
        errand = reference_errand(rng.randrange(num_references))
        errand.message.request_id = ""
        return errand
    method = rng.choice(METHODS)
    message = _message(method, " ".join(rng.choices(WORDS, k=rng.choice((1, 5, 20, 80)))))
    sampling = message.sampling
    sampling.temperature = rng.choice((0, 0.7, 1, 3))
    sampling.top_p = rng.choice((0.5, 0.9, 1))
    sampling.n = rng.choice((1, 1, 1, 1, 2, 3))
    message.stopping.max_tokens = rng.choice((1, 4, 16, 48, 96))
    message.stopping.ignore_eos = rng.random() < 0.5
    if rng.random() < 0.2:
        message.stopping.stop.append(rng.choice(("e", "the ", "\n")))
    if rng.random() < 0.1:
        message.output.logprobs = rng.randrange(6)
    errand = Errand(method, message)
    wish = rng.random() if wishes else 1.0
    if wish < 0.15:
        errand.cancel_after_s = rng.choice((0, rng.uniform(0, 0.05), rng.uniform(0, 0.5)))
    elif wish < 0.3:
        errand.deadline_s = rng.choice((0.001, rng.uniform(0.001, 0.1), rng.uniform(0.05, 0.5)))
    elif wish < 0.36:
        errand.is_bad = True
        rng.choice((lambda: setattr(sampling, "top_p", 7.0),
                    lambda: setattr(sampling, "temperature", float("nan")),
                    lambda: setattr(sampling, "n", 4_000_000_000),
                    lambda: message.stopping.stop.append("")))()
    return errand


def _message(method, text):
    if method.startswith("Chat"):
        return chat_pb2.ChatRequest(messages=[chat_pb2.ChatMessage(role=chat_pb2.USER,
                                                                   content=text)])
    return generate_pb2.GenerateRequest(text=text)


async def perform(stub, errand, references=None):
    """Runs one call. `references`: the texts of reference_errand(i), once they are known."""
    state = _CallState()
    start = time.monotonic()
    verdict, detail = await _ending(stub, errand, references, state)
    end = time.monotonic()
    if end - start > PATIENCE_S:
        verdict, detail = "hung", f"after {end - start:.0f} s: {verdict} {detail}"
    return Outcome(verdict, errand.method, state.accepted, start, end, detail)


@dataclasses.dataclass
class _CallState:
    accepted: bool = False


async def _ending(stub, errand, references, state):
    loop = asyncio.get_running_loop()
    call = getattr(stub, errand.method)(errand.message, timeout=errand.deadline_s)
    timers = [loop.call_later(PATIENCE_S + 1, call.cancel)]
    if errand.cancel_after_s is not None:
        timers.append(loop.call_later(errand.cancel_after_s, call.cancel))
    try:
        if errand.method.endswith("Stream"):
            texts, problem = await _read_stream(call, state)
        else:
            answer = await call
            state.accepted = True
            texts, problem = [_text(choice) for choice in answer.choices], None
        if errand.is_bad:
            return "wrong", "nonsense was accepted"
        if problem:
            return "wrong", problem
        if references and errand.reference is not None and texts != references[errand.reference]:
            return "wrong", f"reference {errand.reference} has another text"
        return "ok", ""
    except asyncio.CancelledError:
        return ("cancelled", "") if errand.cancel_after_s is not None else ("wrong", "cancelled")
    except grpc.aio.AioRpcError as error:
        if any(key == "x-request-id" for key, _ in error.initial_metadata() or ()):
            state.accepted = True
        return _judge(error, errand, state.accepted)
    finally:
        for timer in timers:
            timer.cancel()


def _text(choice):
    return choice.message.content if hasattr(choice, "message") else choice.text


async def _read_stream(call, state):
    """The texts of all choices, and what was out of order."""
    texts, last, count = {}, None, 0
    async for event in call:
        state.accepted = True
        if event.seq != count or (count == 0) != event.HasField("accepted"):
            return None, f"event {count} is {event}"
        if last == "completed":
            return None, "an event after the last"
        last = event.WhichOneof("event")
        count += 1
        if last == "delta":
            delta = event.delta
            text = delta.content if hasattr(delta, "content") else delta.text
            texts[delta.index] = texts.get(delta.index, "") + text
        elif last == "choice_finished":
            texts.setdefault(event.choice_finished.index, "")
    if last != "completed":
        return None, f"a stream ended OK after {last}"
    return [texts[i] for i in sorted(texts)], None


def reason_of(error):
    """The `reason` of our ErrorInfo; None when the error is not ours."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            info = error_details_pb2.ErrorInfo()
            for any in error_details_pb2.Status.FromString(value).details:
                if any.Unpack(info) and info.domain == "tandem":
                    return info.reason
    return None


def _judge(error, errand, accepted):
    code, reason = error.code(), reason_of(error)
    said = f"{errand.method}: {code.name} {reason} {error.details()}"
    if code == grpc.StatusCode.DEADLINE_EXCEEDED and errand.deadline_s is not None:
        # The client's own clock may end the call before the server's answer is there.
        return ("deadline", "") if reason in (None, *DEADLINE_REASONS) else ("wrong", said)
    if code == grpc.StatusCode.CANCELLED and errand.cancel_after_s is not None:
        return "cancelled", ""
    if accepted:
        return "lost", said
    if code == grpc.StatusCode.INVALID_ARGUMENT and errand.is_bad and reason == "BAD_PARAMETER":
        return "invalid", ""
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and reason == "QUEUE_FULL":
        return "queue_full", ""
    if code == grpc.StatusCode.UNAVAILABLE and reason == "DRAINING":
        return "draining", ""
    if code == grpc.StatusCode.UNAVAILABLE and reason is None:
        return "closed", said
    if code == grpc.StatusCode.CANCELLED and reason is None:
        return "cut", said
    return "wrong", said


async def learn_references(address, count):
    """The texts of the reference errands, each asked alone."""
    texts = []
    async with channel(address) as link:
        stub = generation_pb2_grpc.GenerationStub(link)
        for i in range(count):
            errand = reference_errand(i)
            name = errand.method.removesuffix("Stream")
            answer = await getattr(stub, name)(errand.message, timeout=PATIENCE_S)
            texts.append([_text(choice) for choice in answer.choices])
    return texts


async def clients(address, count, seed, references, go_on, wishes=True, channels=8):
    """`count` clients make one call after the other while `go_on(outcome)`; all outcomes."""
    links = [channel(address) for _ in range(min(channels, count))]
    outcomes = []

    async def client(i):
        rng = random.Random(seed * 100_003 + i)
        stub = generation_pb2_grpc.GenerationStub(links[i % len(links)])
        while True:
            errand = random_errand(rng, len(references), wishes)
            outcome = await perform(stub, errand, references)
            outcomes.append(outcome)
            if not go_on(outcome):
                return

    await asyncio.gather(*(client(i) for i in range(count)))
    for link in links:
        await link.close()
    return outcomes
