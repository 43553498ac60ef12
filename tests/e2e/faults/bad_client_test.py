"""Clients that vanish, stop reading, or speak something else: each harms only itself."""

import contextlib
import random
import signal
import socket
import struct
import subprocess
import sys
import time

import grpc
import pytest
import raw_connection as raw
from conftest import Server, eventually, request
from neighbour import bystander, channel_to, neighbour, seeded, text_of  # bystander: a fixture
from tandem.v1 import generation_pb2_grpc, params_pb2

ENDLESS = request(stopping=params_pb2.StoppingParams(ignore_eos=True),
                  output=params_pb2.OutputOptions(logprobs=20))
ENDLESS.stopping.ClearField("max_tokens")

# Opens streams, says so, and reads until it is killed.
VICTIM = """
import sys, grpc
channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.enable_http_proxy", 0)])
stream = channel.unary_stream("/tandem.v1.Generation/GenerateStream")
calls = [stream(bytes.fromhex(sys.argv[2])) for _ in range(4)]
for call in calls:
    next(call)
print("streaming", flush=True)
while True:
    for call in calls:
        next(call, None)
"""


def test_a_client_that_is_killed(server, bystander):
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", VICTIM, server.grpc_address,
                               ENDLESS.SerializeToString().hex()], stdout=subprocess.PIPE) as victim:
            assert victim.stdout.readline() == b"streaming\n"
            victim.kill()


def test_a_client_that_is_stopped_and_goes_on(server, bystander):
    with subprocess.Popen([sys.executable, "-c", VICTIM, server.grpc_address,
                           ENDLESS.SerializeToString().hex()], stdout=subprocess.PIPE) as victim:
        assert victim.stdout.readline() == b"streaming\n"
        victim.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        victim.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        victim.kill()


@pytest.mark.parametrize("policy", ["pause", "abort"])
def test_a_client_that_stops_reading(policy):
    server = Server("--slow-consumer", policy, "--stream-buffer-tokens", "512",
                    "--slow-consumer-timeout-s", "1")
    try:
        # A window of 64 KiB that is never opened again; gRPC's own clients read ahead by megabytes.
        with neighbour(server), raw.connect(server) as connection:
            headers = raw.call_headers("/tandem.v1.Generation/GenerateStream")
            raw.send(connection, raw.PREFACE + raw.frame(raw.SETTINGS)
                + raw.frame(raw.HEADERS, raw.END_HEADERS, 1, headers)
                + raw.frame(raw.DATA, raw.END_STREAM, 1, raw.message(ENDLESS.SerializeToString())))
            eventually(lambda: server.metric("tandem_cancellations_total", cause="slow") == 1)
            eventually(lambda: server.metric("tandem_grpc_requests_total", code="ABORTED") == 1)
        eventually(server.idle)
    finally:
        code = server.stop()
    assert code == 0, "".join(server.log)


GOOD_CALL = raw.PREFACE + raw.frame(raw.SETTINGS) + raw.frame(
    raw.HEADERS, raw.END_HEADERS, 1, raw.call_headers())

OTHER_LANGUAGES = {
    "nothing": b"",
    "HTTP/1.1": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.1 upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
                        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    "TLS": bytes.fromhex("16030100310100002d0303") + bytes(32) + bytes.fromhex("000002130101000000"),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "half a preface": raw.PREFACE[:12],
    "a preface only": raw.PREFACE,
    "a frame of 16 MiB": raw.PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "data without a call": raw.PREFACE + raw.frame(raw.SETTINGS) + raw.frame(
        raw.DATA, 0, 1, b"x" * 100),
    "settings of an odd size": raw.PREFACE + raw.frame(raw.SETTINGS, 0, 0, b"12345"),
    "headers that are no HPACK": raw.PREFACE + raw.frame(raw.SETTINGS) + raw.frame(
        raw.HEADERS, raw.END_HEADERS, 1, b"\xff" * 200),
    "half a message": GOOD_CALL + raw.frame(raw.DATA, 0, 1, raw.message(b"\x1a\x10half")[:8]),
    "a message of 4 GiB": GOOD_CALL + raw.frame(raw.DATA, 0, 1, b"\x00\xff\xff\xff\xff"),
    "a compressed message that is none": GOOD_CALL + raw.frame(
        raw.DATA, raw.END_STREAM, 1, b"\x01\x00\x00\x00\x05hello"),
}


@pytest.mark.parametrize("what", OTHER_LANGUAGES)
def test_a_client_that_speaks_something_else(server, bystander, what):
    # Whether it hangs up politely, at once, or with a reset.
    with raw.connect(server) as connection:
        raw.send(connection, OTHER_LANGUAGES[what])
        with contextlib.suppress(OSError):  # the server may have hung up first
            connection.shutdown(socket.SHUT_WR)
        answer = raw.receive_all(connection)  # ends: the server hangs up, too
        assert not answer.startswith(b"HTTP/1"), "a probe would take this for an HTTP server"
    with raw.connect(server) as connection:
        raw.send(connection, OTHER_LANGUAGES[what])
    with raw.connect(server) as connection:
        raw.send(connection, OTHER_LANGUAGES[what])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_connections_of_noise(server, bystander):
    noise = random.Random(7)
    for i in range(300):
        with raw.connect(server) as connection:
            body = noise.randbytes(noise.randrange(1, 400))
            raw.send(connection, body if i % 3 == 0 else raw.PREFACE + body)
            if i % 3 == 2:
                raw.send(connection, b"".join(
                    raw.frame(noise.randrange(11), noise.randrange(256), noise.randrange(5),
                              noise.randbytes(noise.randrange(64))) for _ in range(8)))


def test_headers_without_end(server, bystander):
    piece = b"".join(raw.header("x-%06d" % i, "v" * 100) for i in range(30))
    with raw.connect(server) as connection:
        connection.settimeout(30)
        taken = raw.send(connection, raw.PREFACE + raw.frame(raw.SETTINGS) + raw.frame(
            raw.HEADERS, 0, 1, raw.call_headers()))
        for _ in range(5000):  # 17 MB, which gRPC keeps until the connection ends
            taken = taken and raw.send(connection, raw.frame(raw.CONTINUATION, 0, 1, piece))


def test_metadata_above_the_limit(server, bystander):
    with channel_to(server.grpc_address) as channel:
        stub = generation_pb2_grpc.GenerationStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Generate(request(), metadata=[("x-large", "v" * 100_000)])
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_calls_that_are_reset_as_fast_as_they_are_made(server, bystander):
    body = raw.message(ENDLESS.SerializeToString())
    with raw.connect(server) as connection:
        connection.settimeout(30)
        raw.send(connection, raw.PREFACE + raw.frame(raw.SETTINGS))
        for i in range(2000):
            stream = 2 * i + 1
            if not raw.send(connection, raw.frame(
                    raw.HEADERS, raw.END_HEADERS, stream, raw.call_headers())
                    + raw.frame(raw.DATA, raw.END_STREAM, stream, body)
                    + raw.frame(raw.RST_STREAM, 0, stream, b"\x00\x00\x00\x08")):
                break  # refused as a flood


def test_pings_and_settings_without_end(server, bystander):
    with raw.connect(server) as connection:
        connection.settimeout(5)
        raw.send(connection, raw.PREFACE + raw.frame(raw.SETTINGS))
        for _ in range(200):
            if not raw.send(connection, raw.frame(raw.PING, 0, 0, b"12345678") * 50
                            + raw.frame(raw.SETTINGS) * 50):
                break


def test_the_server_still_answers_as_before(server, bystander):
    assert text_of(server.stub, seeded(2)) == text_of(server.stub, seeded(2))
