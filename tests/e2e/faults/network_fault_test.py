"""Calls over a network that misbehaves: answered or dead, and nobody else notices."""

import contextlib
import threading
import time

import grpc
import pytest
from conftest import eventually, request
from fault_proxy import FaultProxy, Link
from neighbour import bystander, channel_to, seeded, text_of  # bystander: a fixture
from tandem.v1 import generation_pb2_grpc, params_pb2

HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
FATAL = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED,
         grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def calls(channel, timeout):
    """A stream, a unary call and a probe, each as a function that returns its result."""
    stub = generation_pb2_grpc.GenerationStub(channel)
    probe = channel.unary_unary(HEALTH)
    return (lambda: [event for event in stub.GenerateStream(seeded(1), timeout=timeout)],
            lambda: stub.Generate(seeded(1), timeout=timeout),
            lambda: probe(b"", timeout=timeout))


@pytest.mark.parametrize("to_server,to_client", [
    (Link(latency_s=0.03, jitter_s=0.03), Link(latency_s=0.03, jitter_s=0.03)),
    (Link(), Link(bytes_per_s=20_000)),
    (Link(bytes_per_s=5_000), Link()),
    (Link(stall_at=100, stall_s=0.7), Link()),  # inside the first request's headers
    (Link(), Link(stall_at=600, stall_s=0.7)),  # inside the first answer
], ids=["latency", "slow answers", "slow requests", "request stalls", "answer stalls"])
def test_a_slow_network_changes_no_answer(server, bystander, to_server, to_client):
    ids, text = text_of(server.stub, seeded(1))
    with FaultProxy(server.grpc_address, to_server, to_client) as proxy:
        with channel_to(proxy.address) as channel:
            stream, unary, probe = calls(channel, timeout=60)
            answer = unary().choices[0]
            events = stream()
            assert (list(answer.token_ids), answer.text) == (ids, text)
            assert "".join(event.delta.text for event in events) == text
            assert events[-1].HasField("completed") and probe() == SERVING


@pytest.mark.parametrize("end", ["reset", "close", "half-close", "swallow"])
@pytest.mark.parametrize("direction,at", [
    ("to_server", 10),  # inside the preface
    ("to_server", 60),  # inside the settings
    ("to_server", 250),  # inside the headers of a call
    ("to_client", 5),  # inside a frame's header
    ("to_client", 400),  # inside an answer
])
def test_a_network_that_fails_ends_the_call(server, bystander, direction, at, end):
    with FaultProxy(server.grpc_address, **{direction: Link(end_at=at, end=end)}) as proxy:
        with channel_to(proxy.address) as channel:
            timeout = 0.3 if end == "swallow" else 20
            for call in calls(channel, timeout)[:2]:
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                assert caught.value.code() in FATAL, caught.value
            with contextlib.suppress(grpc.RpcError):  # small enough to come through some faults
                assert calls(channel, timeout)[2]() == SERVING


def test_a_stall_longer_than_the_deadline(server, bystander):
    stalled = Link(stall_at=400, stall_s=600)
    with FaultProxy(server.grpc_address, to_client=stalled) as proxy:
        with channel_to(proxy.address) as channel:
            for call in calls(channel, timeout=1)[:2]:
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_connections_that_break_in_the_middle_of_streams(server, bystander):
    endless = request("x", stopping=params_pb2.StoppingParams(ignore_eos=True))
    endless.stopping.ClearField("max_tokens")
    errors = []

    def watch(address):
        with channel_to(address) as channel:
            try:
                for _ in generation_pb2_grpc.GenerationStub(channel).GenerateStream(endless):
                    pass
                errors.append(None)
            except grpc.RpcError as error:
                errors.append(error.code())

    with FaultProxy(server.grpc_address) as proxy:
        watchers = [threading.Thread(target=watch, args=(proxy.address,)) for _ in range(12)]
        for thread in watchers:
            thread.start()
        eventually(lambda: proxy.num_connections == 12)
        while any(thread.is_alive() for thread in watchers):
            time.sleep(0.1)
            proxy.reset()
        for thread in watchers:
            thread.join()
    assert len(errors) == 12 and set(errors) <= {None, *FATAL}
    assert any(errors)
