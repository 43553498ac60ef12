"""A `tandem serve` process for the tests, and a client of it.

TANDEM_BINARY  the program
TANDEM_MODEL   a checkpoint directory; default: the demo model, else a small random one
PYTHONPATH     must hold the modules generated from proto/ (<build>/python)
"""

import os
import pathlib
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request

import grpc
import pytest
from tandem.rpc import error_details_pb2
from tandem.v1 import generate_pb2, generation_pb2_grpc

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PATIENCE_S = 60


def model_directory():
    if "TANDEM_MODEL" in os.environ:
        return pathlib.Path(os.environ["TANDEM_MODEL"])
    demo = REPOSITORY / "models" / "demo"
    if (demo / "config.json").exists():
        return demo
    return REPOSITORY / "tests" / "golden" / "e2b-like" / "target"


def eventually(condition):
    """Waits until `condition()` holds and returns its value."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)
    return value


class Server:
    """A server on ports of its own choice; ready when constructed."""

    def __init__(self, *options):
        command = [os.environ["TANDEM_BINARY"], "serve", "--model", str(model_directory()),
                   "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
                   "--log-format", "text", *options]
        environment = {"TANDEM_DRAIN_GRACE_S": "0", **os.environ}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True,
                                        env=environment)
        self.log = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if not self._ready.wait(PATIENCE_S) or self.process.poll() is not None:
            self.process.kill()
            raise RuntimeError("no server:\n" + "".join(self.log))
        self.channel = self.new_channel()
        self.stub = generation_pb2_grpc.GenerationStub(self.channel)

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)
            if "ready" in line and (found := re.search(r"grpc=(\S+) http=(\S+)", line)):
                self.grpc_address, self.http_address = found.groups()
                self._ready.set()
        self._ready.set()  # the process has ended

    def new_channel(self):
        return grpc.insecure_channel(self.grpc_address, options=[
            ("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_http_proxy", 0)])

    def http(self, path):
        """Status code and body of GET `path`."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.http_address}{path}", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name, **labels):
        """The sum of all series of `name` that carry `labels`."""
        total, found = 0.0, False
        for line in self.http("/metrics")[1].splitlines():
            match = re.fullmatch(re.escape(name) + r"\{(.*)\} (\S+)", line)
            if match and all(f'{k}="{v}"' in match[1] for k, v in labels.items()):
                total, found = total + float(match[2]), True
        assert found or labels, f"no series {name}"
        return total

    def idle(self):
        """Whether no request holds or awaits memory."""
        return (self.metric("vllm:num_requests_running") == 0
                and self.metric("vllm:num_requests_waiting") == 0
                and self.metric("vllm:kv_cache_usage_perc") == 0)

    def stop(self):
        """Ends the process in an orderly way and returns its exit code."""
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code


@pytest.fixture(scope="session")
def server():
    """One server for all tests that leave it as they found it."""
    running = Server("--drain-timeout-s", "30")
    yield running
    assert running.stop() == 0, "".join(running.log)


@pytest.fixture
def stub(server):
    """A client; afterwards the server must be idle and alive."""
    yield server.stub
    assert server.process.poll() is None, "".join(server.log)
    eventually(server.idle)


def request(text="The quick brown fox", **fields):
    """A greedy request for a few tokens."""
    message = generate_pb2.GenerateRequest(text=text)
    message.sampling.temperature = 0
    message.stopping.max_tokens = 8
    message.MergeFrom(generate_pb2.GenerateRequest(**fields))
    return message


class Details:
    """What an error says beside code and message."""

    def __init__(self, error):
        trailers = dict(error.trailing_metadata())
        status = error_details_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        assert status.code == error.code().value[0]
        self.message = error.details()
        self.info = error_details_pb2.ErrorInfo()
        self.fields = []
        self.types = [any.type_url.rsplit(".", 1)[1] for any in status.details]
        for any in status.details:
            any.Unpack(self.info)
            bad = error_details_pb2.BadRequest()
            if any.Unpack(bad):
                self.fields = [violation.field for violation in bad.field_violations]
        assert self.info.domain == "tandem"


def refused(call, code, reason):
    """Details of the error that `call()` must end with."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == code, caught.value.details()
    details = Details(caught.value)
    assert details.info.reason == reason
    message = caught.value.details()
    assert len(message.encode()) <= 512 and message.isascii() and message.isprintable()
    return details
