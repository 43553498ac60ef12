"""Reuse of the KV cache across requests, as clients and operators meet it.

What is computed again is told by counters of rows, never by time. Every test has salts of its own,
so that none finds what another left.
"""

import concurrent.futures
import json
import random
import uuid

import grpc
import pytest
from cli_test import DONE, tandem
from conftest import Server, eventually, refused, request
from tandem.v1 import admin_pb2, admin_pb2_grpc, chat_pb2, info_pb2, params_pb2, text_pb2
from tandem.v1.params_pb2 import CacheParams, SpeculativeParams

INVALID = grpc.StatusCode.INVALID_ARGUMENT
ROWS = "vllm:prompt_tokens_total"
QUERIES = "vllm:prefix_cache_queries_total"
HITS = "vllm:prefix_cache_hits_total"
TEXT = ("The quick brown fox jumps over the lazy dog while seven wise owls watch from an old oak "
        "and count 1 2 3 4 5 6 7 8 9 stars in the cold night sky above the quiet river")
MODES = [SpeculativeParams(mode=SpeculativeParams.OFF), SpeculativeParams(),
         SpeculativeParams(mode=SpeculativeParams.FIXED, max_draft_tokens=4)]


@pytest.fixture
def salt():
    return uuid.uuid4().hex


def start(*options):
    """A server with options of its own."""
    return Server("--drain-timeout-s", "30", *options)


def block_size(stub):
    return stub.GetModel(info_pb2.GetModelRequest()).kv_block_size


def words(stub, count, seed):
    """`count` ids of plain text in an order of their own."""
    pool = stub.Tokenize(text_pb2.TokenizeRequest(text=TEXT, add_bos=False)).token_ids
    return random.Random(seed).choices(list(pool), k=count)


def asked(ids, salt="", max_tokens=8, no_read=False, no_write=False, **fields):
    """A greedy request for the ids, with log-probabilities."""
    message = request("", cache=CacheParams(no_read=no_read, no_write=no_write, salt=salt),
                      output=params_pb2.OutputOptions(logprobs=2), **fields)
    message.token_ids.ids.extend(ids)
    message.stopping.max_tokens = max_tokens
    message.stopping.ignore_eos = True
    return message


def cached(answer):
    return answer.usage.cached_prompt_tokens


def answers_agree(one, other):
    """Ids and log-probabilities, to the last bit."""
    return [list(choice.logprobs) for choice in one.choices] == [
        list(choice.logprobs) for choice in other.choices]


class Counters:
    """What was computed and found since this was made; the engine must be idle then and later."""

    def __init__(self, server):
        self.server = server
        self.names = (ROWS, QUERIES, HITS)
        eventually(server.idle)
        self.before = [server.metric(name) for name in self.names]

    def since(self):
        eventually(self.server.idle)
        return tuple(int(self.server.metric(name) - before)
                     for name, before in zip(self.names, self.before))


# One request after another.


@pytest.mark.parametrize("way", MODES, ids=["no-drafts", "default", "four-drafts"])
def test_of_a_long_shared_beginning_nothing_is_computed_twice(server, stub, salt, way):
    # Given a conversation of about 4,000 tokens, as far as the context has room for it.
    model = stub.GetModel(info_pb2.GetModelRequest())
    block = model.kv_block_size
    shared = min(4000, model.context_length - 96) // block * block
    beginning = words(stub, shared, 1)
    first, second = beginning + words(stub, 21, 2), beginning + words(stub, 19, 3)
    counters = Counters(server)
    # When it is asked about twice.
    opening = stub.Generate(asked(first, salt, speculative=way))
    assert cached(opening) == 0
    assert counters.since() == (len(first), len(first), 0)
    call = stub.GenerateStream(asked(second, salt, speculative=way, request_id=salt))
    events = list(call)
    # Then the second one computes what is its own.
    usage = events[-1].completed.usage
    assert usage.cached_prompt_tokens == shared and usage.prompt_tokens == len(second)
    assert events[0].accepted.cached_prompt_tokens == shared
    assert dict(call.trailing_metadata())["x-tandem-cached-tokens"] == str(shared)
    assert counters.since() == (len(first) + 19, len(first) + len(second), shared)
    eventually(lambda: any(f"id={salt} " in line and f" cached_tokens={shared} " in line
                           for line in server.log))
    # And its answer is the one that it gets when everything is computed.
    found = stub.Generate(asked(second, salt, speculative=way))
    computed = stub.Generate(asked(second, salt, no_read=True, speculative=way))
    assert cached(found) >= shared and cached(computed) == 0
    assert answers_agree(found, computed)
    ids = [i for event in events for i in event.delta.token_ids]
    assert ids == list(computed.choices[0].token_ids)


def test_answers_are_found_as_well_as_prompts(stub, salt):
    # Given an answer that fills blocks of its own.
    block = block_size(stub)
    prompt = words(stub, 2 * block, 4)
    answer = list(stub.Generate(asked(prompt, salt, 2 * block + 2)).choices[0].token_ids)
    # When both are the beginning of the next prompt.
    longer = prompt + answer + words(stub, 5, 5)
    found = stub.Generate(asked(longer, salt))
    # Then they are found together.
    assert cached(found) == 4 * block
    assert answers_agree(found, stub.Generate(asked(longer, salt, no_read=True)))


def test_the_last_token_of_a_prompt_always_runs(stub, salt):
    block = block_size(stub)
    prompt = words(stub, 3 * block, 6)
    first = stub.Generate(asked(prompt, salt))
    again = stub.Generate(asked(prompt, salt))
    assert cached(again) in range(2 * block, 3 * block)
    assert answers_agree(first, again)


def test_only_an_equal_salt_finds_it(stub, salt):
    prompt = words(stub, 4 * block_size(stub) + 1, 7)
    plain = stub.Generate(asked(prompt, salt))
    for other in (salt + "x", salt[:-1], "é" * 64):
        answer = stub.Generate(asked(prompt, other, no_write=True))
        assert cached(answer) == 0 and answers_agree(answer, plain)
    assert cached(stub.Generate(asked(prompt, salt))) == 4 * block_size(stub)


def test_a_request_may_leave_nothing_behind(stub, salt):
    prompt = words(stub, 4 * block_size(stub) + 1, 8)
    for _ in range(2):
        assert cached(stub.Generate(asked(prompt, salt, no_write=True))) == 0
    stub.Generate(asked(prompt, salt))
    # It still reads what others left.
    assert cached(stub.Generate(asked(prompt, salt, no_write=True))) == 4 * block_size(stub)


def test_a_request_may_compute_everything(server, stub, salt):
    prompt = words(stub, 4 * block_size(stub) + 1, 9)
    counters = Counters(server)
    for _ in range(2):
        assert cached(stub.Generate(asked(prompt, salt, no_read=True))) == 0
    # It did not ask the cache, and counts for neither queries nor hits.
    assert counters.since() == (2 * len(prompt), 0, 0)
    # It still leaves its blocks to others.
    assert cached(stub.Generate(asked(prompt, salt))) == 4 * block_size(stub)


def test_a_scored_prompt_is_scored_from_the_first_token_on(stub, salt):
    prompt = words(stub, 4 * block_size(stub) + 1, 10)
    stub.Generate(asked(prompt, salt))
    message = asked(prompt, salt)
    message.output.prompt_logprobs = 1
    scored = stub.Generate(message)
    message.cache.no_read = True
    assert len(scored.prompt_logprobs) == len(prompt)
    assert list(scored.prompt_logprobs) == list(stub.Generate(message).prompt_logprobs)


# Several at the same time.


def test_choices_compute_their_prompt_once(server, stub, salt):
    # Given a prompt that ends inside a block.
    block = block_size(stub)
    prompt = words(stub, 6 * block + block // 2, 11)
    message = asked(prompt, salt)
    message.sampling.n = 4
    message.sampling.temperature = 1
    message.sampling.seed = 4711
    counters = Counters(server)
    # When four answers are drawn.
    together = stub.Generate(message)
    # Then it is computed once, but for the last block at most.
    rows, queries, hits = counters.since()
    assert len(prompt) <= rows <= len(prompt) + 3 * block
    assert together.usage.prompt_tokens == queries == len(prompt)
    assert cached(together) == hits == 0
    # And they are what they were without any reuse.
    message.cache.no_read = message.cache.no_write = True
    apart = stub.Generate(message)
    assert answers_agree(together, apart)
    assert len({tuple(choice.token_ids) for choice in together.choices}) > 1


def test_equal_prompts_that_arrive_together_are_computed_once(server, stub, salt):
    block = block_size(stub)
    prompt = words(stub, 40 * block + 3, 12)
    counters = Counters(server)
    with concurrent.futures.ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda _: stub.Generate(asked(prompt, salt)), range(6)))
    rows, queries, hits = counters.since()
    assert len(prompt) <= rows <= len(prompt) + 5 * block
    assert queries == 6 * len(prompt) and rows + hits == queries
    assert sum(map(cached, answers)) == hits
    alone = stub.Generate(asked(prompt, no_read=True, no_write=True))
    assert all(answers_agree(answer, alone) for answer in answers)


# Conversations.


def turn(stub, messages, salt):
    message = chat_pb2.ChatRequest(messages=messages, cache=CacheParams(salt=salt))
    message.sampling.temperature = 0
    message.stopping.max_tokens = 24
    return stub.Chat(message)


def test_a_conversation_goes_on_where_its_last_turn_ended(stub, salt):
    block = block_size(stub)
    messages = [chat_pb2.ChatMessage(role=chat_pb2.USER, content=TEXT)]
    kept = 0
    for question in ("And then?", "What is 3 + 4?", "Thank you."):
        answer = turn(stub, messages, salt)
        assert cached(answer) >= kept
        # The next prompt begins with this one, but for what asks for the answer.
        kept = (answer.usage.prompt_tokens - 8) // block * block
        assert kept > 0
        messages.append(answer.choices[0].message)
        messages.append(chat_pb2.ChatMessage(role=chat_pb2.USER, content=question))
    assert cached(turn(stub, messages, salt)) >= kept
    assert cached(turn(stub, messages, salt + "x")) == 0


# What operators see and do.


def test_a_warm_cache_is_not_a_busy_server(server, stub, salt):
    prompt = words(stub, 4 * block_size(stub) + 1, 13)
    stub.Generate(asked(prompt, salt))
    stub.Generate(asked(prompt, salt))
    eventually(server.idle)
    stats = stub.GetStats(info_pb2.GetStatsRequest())
    assert stats.kv_blocks_used == 0 and stats.kv_usage == 0
    assert 0 < stats.prefix_hit_rate < 1
    assert stats.kv_blocks_cached == sum(group.cached for group in stats.kv_groups) > 0
    for group in stats.kv_groups:
        blocks = {state: server.metric("tandem_kv_blocks", group=group.name, state=state)
                  for state in ("used", "cached", "free")}
        assert blocks["cached"] == group.cached and blocks["used"] == 0
        assert sum(blocks.values()) == group.total
    assert server.metric(HITS) < server.metric(QUERIES)


@pytest.mark.parametrize("method", ["Generate", "Chat"])
def test_a_salt_that_is_too_long_is_named(stub, method):
    message = request() if method == "Generate" else chat_pb2.ChatRequest(
        messages=[chat_pb2.ChatMessage(role=chat_pb2.USER, content="Hello")])
    message.cache.salt = "s" * 129
    details = refused(lambda: getattr(stub, method)(message), INVALID, "BAD_PARAMETER")
    assert details.fields == ["cache.salt"]


def test_the_cache_is_flushed_for_operators_alone(server, stub):
    admin = admin_pb2_grpc.AdminStub(server.channel)
    details = refused(lambda: admin.FlushPrefixCache(admin_pb2.FlushPrefixCacheRequest()),
                      grpc.StatusCode.PERMISSION_DENIED, "AUTH")
    assert "--admin" in details.message


def test_a_flush_forgets_what_nobody_uses(salt):
    server = start("--admin", "on")
    stub, admin = server.stub, admin_pb2_grpc.AdminStub(server.channel)
    assert "tandem.v1.Admin" in stub.GetServerInfo(info_pb2.GetServerInfoRequest()).services
    assert admin.FlushPrefixCache(admin_pb2.FlushPrefixCacheRequest()).freed_blocks == 0
    prompt = words(stub, 4 * block_size(stub) + 1, 14)
    stub.Generate(asked(prompt, salt))
    eventually(server.idle)
    kept = stub.GetStats(info_pb2.GetStatsRequest()).kv_blocks_cached
    assert kept > 0
    assert admin.FlushPrefixCache(admin_pb2.FlushPrefixCacheRequest()).freed_blocks == kept
    assert stub.GetStats(info_pb2.GetStatsRequest()).kv_blocks_cached == 0
    assert cached(stub.Generate(asked(prompt, salt))) == 0
    # While somebody runs, the engine does not get idle in time, and nothing is forgotten.
    long = asked(prompt, salt, 3000)
    long.sampling.n = 8
    running = stub.GenerateStream(long)
    while not next(running).HasField("delta"):
        pass
    patient = admin_pb2.FlushPrefixCacheRequest(wait_idle=True, timeout_ms=50)
    details = refused(lambda: admin.FlushPrefixCache(patient),
                      grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE")
    assert "50 ms" in details.message
    # A flush that does wait comes when it has ended.
    waiting = admin.FlushPrefixCache.future(admin_pb2.FlushPrefixCacheRequest(wait_idle=True))
    running.cancel()
    assert waiting.result().freed_blocks > 0
    assert cached(stub.Generate(asked(prompt, salt))) == 0
    assert server.stop() == 0, "".join(server.log)


def test_one_tenant_does_not_find_what_another_left():
    server = start("--prefix-cache", "tenant", "--spec-mode", "off")
    prompt = words(server.stub, 4 * block_size(server.stub) + 1, 15)

    def of(tenant):
        return cached(server.stub.Generate(
            asked(prompt, scheduling=params_pb2.SchedulingParams(tenant=tenant))))

    assert [of("a"), of("b"), of("")] == [0, 0, 0]
    assert of("a") == of("b") == of("") == 4 * block_size(server.stub)
    assert server.stop() == 0, "".join(server.log)


def test_a_cache_that_is_off_keeps_nothing(server):
    model = server.stub.GetModel(info_pb2.GetModelRequest())
    assert "prefix_cache" in model.capabilities
    off = start("--prefix-cache", "off")
    assert "prefix_cache" not in off.stub.GetModel(info_pb2.GetModelRequest()).capabilities
    prompt = words(off.stub, 4 * model.kv_block_size + 1, 16)
    counters = Counters(off)
    assert [cached(off.stub.Generate(asked(prompt))) for _ in range(2)] == [0, 0]
    assert counters.since() == (2 * len(prompt), 0, 0)
    assert off.stub.GetStats(info_pb2.GetStatsRequest()).kv_blocks_cached == 0
    assert off.stop() == 0, "".join(off.log)


def test_a_load_run_tells_how_much_of_its_prompts_was_cached(server, stub):
    block = block_size(stub)
    ended = tandem("bench", "serve", "--connect", server.grpc_address, "--prompt-tokens",
                   4 * block, "--shared-prefix", 3 * block, "--output-tokens", 4, "--requests", 6,
                   "--concurrency", 1, "--warmup", 0, "--seed", random.getrandbits(30), "-o",
                   "json")
    assert ended.returncode == DONE, ended
    figures = json.loads(ended.stdout)["runs"][0]["figures"]
    assert figures["input_tokens"] == 6 * 4 * block
    assert figures["cached_input_tokens"] >= 5 * 3 * block
