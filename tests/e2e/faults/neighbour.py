"""A well-behaved client beside the trouble: its text must come out as if it were alone.

The fixture `bystander` holds every test of this folder to that, and to leaving nothing behind.
"""

import contextlib
import os
import threading

import grpc
import pytest
from conftest import eventually, request
from tandem.v1 import params_pb2


def seeded(seed, max_tokens=48):
    """A request whose text its seed decides."""
    return request("Tell me a story about a fox.",
                   sampling=params_pb2.SamplingParams(temperature=1.5, top_k=0, top_p=1, seed=seed),
                   stopping=params_pb2.StoppingParams(max_tokens=max_tokens, ignore_eos=True))


def text_of(stub, message):
    """The ids and the text of a stream."""
    ids, text = [], ""
    for event in stub.GenerateStream(message, timeout=60):
        ids.extend(event.delta.token_ids)
        text += event.delta.text
    return ids, text


@contextlib.contextmanager
def neighbour(server):
    """Streams seeded texts while the block runs; they must equal those streamed before it."""
    seeds = range(4)
    alone = [text_of(server.stub, seeded(seed)) for seed in seeds]
    assert len({text for _, text in alone}) > 1
    answers, errors, stop = [], [], threading.Event()

    def talk():
        try:
            while not stop.is_set() or len(answers) < len(seeds):
                seed = len(answers) % len(seeds)
                answers.append(text_of(server.stub, seeded(seed)) == alone[seed])
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not errors and all(answers), (errors, answers)


def open_files(server):
    """How many descriptors the server's process holds."""
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


@pytest.fixture
def bystander(server):
    """Checks around a test that a neighbour's text is unchanged and nothing is left behind."""
    with neighbour(server):
        pass  # the clients of the tests are connected
    eventually(server.idle)
    files = open_files(server)
    with neighbour(server):
        yield
    assert server.process.poll() is None, "".join(server.log)
    eventually(server.idle)
    assert server.metric("tandem_kv_blocks", state="used") == 0
    eventually(lambda: open_files(server) <= files)


@contextlib.contextmanager
def channel_to(address):
    """A channel that shares no connection with another."""
    channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1),
                                                      ("grpc.enable_http_proxy", 0)])
    with channel:
        yield channel
