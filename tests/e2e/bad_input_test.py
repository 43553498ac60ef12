"""Hostile and mistaken clients: each gets a typed answer, and the server lives on."""

import math

import grpc
import pytest
from conftest import refused, request
from tandem.v1 import generate_pb2, params_pb2, text_pb2
from tandem.v1.params_pb2 import (CacheParams, ChoiceList, GuidedDecoding, OutputOptions,
                                  SamplingParams, SchedulingParams, SpeculativeParams,
                                  StoppingParams)

INVALID = grpc.StatusCode.INVALID_ARGUMENT
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
HUGE = 2**32 - 1


def both_ways(stub, message):
    """The message as a unary call and as a stream."""
    return [lambda: stub.Generate(message), lambda: list(stub.GenerateStream(message))]


BAD_FIELDS = [
    ("sampling.temperature", {"sampling": SamplingParams(temperature=math.nan)}),
    ("sampling.temperature", {"sampling": SamplingParams(temperature=-1)}),
    ("sampling.temperature", {"sampling": SamplingParams(temperature=1e38)}),
    ("sampling.top_p", {"sampling": SamplingParams(top_p=math.nan)}),
    ("sampling.top_p", {"sampling": SamplingParams(top_p=-0.1)}),
    ("sampling.top_k", {"sampling": SamplingParams(top_k=-2**31)}),
    ("sampling.min_p", {"sampling": SamplingParams(min_p=math.inf)}),
    ("sampling.repetition_penalty", {"sampling": SamplingParams(repetition_penalty=-math.inf)}),
    ("sampling.frequency_penalty", {"sampling": SamplingParams(frequency_penalty=math.nan)}),
    ("sampling.presence_penalty", {"sampling": SamplingParams(presence_penalty=1e30)}),
    ("sampling.n", {"sampling": SamplingParams(n=HUGE)}),
    ("sampling.logit_bias[3]", {"sampling": SamplingParams(logit_bias={3: math.nan})}),
    ("sampling.allowed_token_ids", {"sampling": SamplingParams(allowed_token_ids=[5],
                                                               banned_token_ids=[5])}),
    ("stopping.max_tokens", {"stopping": StoppingParams(max_tokens=HUGE)}),
    ("stopping.min_tokens", {"stopping": StoppingParams(min_tokens=HUGE)}),
    ("stopping.stop", {"stopping": StoppingParams(stop=["a"] * 17)}),
    ("stopping.stop[0]", {"stopping": StoppingParams(stop=["x" * 257])}),
    ("output.logprobs", {"output": OutputOptions(logprobs=HUGE)}),
    ("output.prompt_logprobs", {"output": OutputOptions(prompt_logprobs=21)}),
    ("output.stream_interval_ms", {"output": OutputOptions(stream_interval_ms=HUGE)}),
    ("speculative.max_draft_tokens", {"speculative": SpeculativeParams(max_draft_tokens=HUGE)}),
    ("scheduling.priority", {"scheduling": SchedulingParams(priority=2**31 - 1)}),
    ("scheduling.tenant", {"scheduling": SchedulingParams(tenant="t" * 129)}),
    ("cache.salt", {"cache": CacheParams(salt="s" * 129)}),
    ("guided.choice", {"guided": GuidedDecoding(choice=ChoiceList(choices=["a"] * 257))}),
    ("labels", {"labels": {str(i): "" for i in range(9)}}),
    ("request_id", {"request_id": "not printable \x01"}),
    ("user", {"user": "u" * 129}),
]


@pytest.mark.parametrize("field,fields", BAD_FIELDS)
def test_a_bad_parameter_is_named(stub, field, fields):
    for call in both_ways(stub, request(**fields)):
        assert refused(call, INVALID, "BAD_PARAMETER").fields == [field]


def test_an_empty_prompt(stub):
    for message in (generate_pb2.GenerateRequest(), request(""),
                    generate_pb2.GenerateRequest(token_ids=generate_pb2.TokenIds())):
        for call in both_ways(stub, message):
            refused(call, INVALID, "EMPTY_PROMPT")


def test_ids_that_are_no_tokens(stub):
    vocabulary = stub.GetModel(model_request()).vocab_size
    for bad in (vocabulary, 2**31, HUGE):
        message = generate_pb2.GenerateRequest(token_ids=generate_pb2.TokenIds(ids=[2, bad]))
        for call in both_ways(stub, message):
            assert refused(call, INVALID, "BAD_TOKEN_ID").fields == ["token_ids.ids[1]"]
        for field in ("banned_token_ids", "allowed_token_ids"):
            message = request(sampling=SamplingParams(**{field: [bad]}))
            refused(lambda: stub.Generate(message), INVALID, "BAD_TOKEN_ID")
    refused(lambda: stub.Detokenize(text_pb2.DetokenizeRequest(token_ids=[vocabulary])), INVALID,
            "BAD_TOKEN_ID")


def model_request():
    from tandem.v1 import info_pb2
    return info_pb2.GetModelRequest()


def test_a_prompt_longer_than_the_context(stub):
    limit = stub.CountTokens(text_pb2.TokenizeRequest(text="a")).max_prompt_tokens
    message = generate_pb2.GenerateRequest(token_ids=generate_pb2.TokenIds(ids=[5] * (limit + 1)))
    for call in both_ways(stub, message):
        details = refused(call, INVALID, "PROMPT_TOO_LONG")
        assert details.info.metadata["prompt_tokens"] == str(limit + 1)
        assert details.info.metadata["max_prompt_tokens"] == str(limit)


def test_a_million_characters(stub):
    for text in ("a" * 1_000_000, "fox " * 250_000, "🙂" * 250_000):
        for call in both_ways(stub, request(text)):
            refused(call, INVALID, "PROMPT_TOO_LONG")
    details = refused(lambda: stub.Generate(request("a" * ((4 << 20) + 1))), INVALID,
                      "BAD_PARAMETER")
    assert details.fields


def test_a_message_above_the_limit(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Generate(request("a" * (65 << 20)))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("body", [
    b"\x1a\x02\xff\xfe",  # a text that is not UTF-8
    b"\x1a\x03\xed\xa0\x80",  # a surrogate
    b"\x1a\x7fcut",  # shorter than it says
    b"\x1f",  # no such wire type
    b"\xff" * 64,
    b"\x3a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # a length beyond 2^63
])
def test_bytes_that_are_no_message(server, stub, body):
    unary = server.channel.unary_unary("/tandem.v1.Generation/Generate")
    refused(lambda: unary(body), INVALID, "BAD_PARAMETER")
    stream = server.channel.unary_stream("/tandem.v1.Generation/GenerateStream")
    refused(lambda: list(stream(body)), INVALID, "BAD_PARAMETER")


@pytest.mark.parametrize("method", ["Tokenize", "CountTokens", "Detokenize", "ListModels",
                                    "GetModel", "GetServerInfo"])
def test_bytes_that_are_no_message_to_other_methods(server, stub, method):
    call = server.channel.unary_unary("/tandem.v1.Generation/" + method)
    refused(lambda: call(b"\x1f"), INVALID, "BAD_PARAMETER")


def test_another_model(stub):
    details = refused(lambda: stub.Generate(request(model="x" * 1000)),
                      grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
    assert "ResourceInfo" in details.types


@pytest.mark.parametrize("feature,fields", [
    ("idempotency_key", {"idempotency_key": "k"}),
    ("guided", {"guided": GuidedDecoding(json_object=True)}),
    ("speculative.acceptance=REJECTION_SAMPLING",
     {"speculative": SpeculativeParams(acceptance=SpeculativeParams.REJECTION_SAMPLING)}),
    ("speculative.min_draft_confidence",
     {"speculative": SpeculativeParams(min_draft_confidence=0.5)}),
])
def test_a_missing_feature_is_named(stub, feature, fields):
    details = refused(lambda: stub.Generate(request(**fields)), UNIMPLEMENTED,
                      "FEATURE_UNSUPPORTED")
    assert details.info.metadata["feature"] == feature


def test_what_holds_anyway_is_granted(stub):
    message = request(speculative=SpeculativeParams(mode=SpeculativeParams.AUTO),
                      scheduling=SchedulingParams(deterministic=True, priority=5, tenant="t"),
                      cache=CacheParams(no_read=True, no_write=True, salt="s"),
                      output=params_pb2.OutputOptions(speculative_stats=True),
                      user="u", labels={"team": "search"})
    assert stub.Generate(message).usage.completion_tokens > 0


def test_a_method_of_a_later_version(stub):
    details = refused(lambda: stub.Embed(text_pb2.EmbedRequest()), UNIMPLEMENTED,
                      "FEATURE_UNSUPPORTED")
    assert details.info.metadata["feature"] == "method Embed"


def test_tokenizing_nothing(stub):
    refused(lambda: stub.Tokenize(text_pb2.TokenizeRequest()), INVALID, "BAD_PARAMETER")


def test_a_compressed_request_is_refused_before_it_is_inflated(server, stub):
    # Given a message far above the receive limit, of a few hundred kilobytes on the wire.
    call = server.channel.unary_unary("/tandem.v1.Generation/Generate")
    bomb = b"\x1a\x80\x80\x80\xc8\x01" + b"a" * (400 << 20)
    before = peak_memory_mib(server)
    # When it comes compressed, then it is refused, and the server goes on.
    with pytest.raises(grpc.RpcError) as caught:
        call(bomb, compression=grpc.Compression.Gzip, timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "gzip" in caught.value.details()
    assert peak_memory_mib(server) < before + 50


def test_a_message_of_millions_of_empty_entries_is_refused_before_it_is_built(server, stub):
    before = peak_memory_mib(server)
    call = server.channel.unary_unary("/tandem.v1.Generation/Chat")
    refused(lambda: call(b"\x1a\x00" * 10_000_000, timeout=60),
            grpc.StatusCode.INVALID_ARGUMENT, "BAD_PARAMETER")
    assert peak_memory_mib(server) < before + 100


def peak_memory_mib(server):
    with open(f"/proc/{server.process.pid}/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024
