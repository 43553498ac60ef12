"""Clients killed at any moment, a thousand times: their memory comes back, others notice nothing.

A victim is a process that opens three endless streams and reads one of them; it gets SIGKILL after a
random while: before it has connected, in the queue, in its prompt, in decode.

Figure  kills; blocks left (0); the neighbour's seeded texts that differ (0); the time from the
        server's notice to free memory beside the time of a step.
"""

import dataclasses
import multiprocessing.forkserver
import os
import random
import sys
import threading
import time

import grpc
from conftest import Server, request
from scraped import histogram, left_over, quantile_bound
from tandem.v1 import generate_pb2, generation_pb2_grpc, params_pb2

STREAMS = 3


@dataclasses.dataclass
class Result:
    kills: int
    cancelled: int  # streams that the server ended for their clients
    neighbour_texts: int
    neighbour_changed: int
    free_p50_s: float  # bounds of histogram buckets
    free_p99_s: float
    free_mean_s: float
    free_count: int
    step_mean_s: float
    step_p99_s: float
    left: tuple
    exit_code: int

    def row(self):
        return (f"| {self.kills} clients killed, {STREAMS} streams each | {self.cancelled} streams "
                f"ended, memory free after: mean {self.free_mean_s * 1e3:.2f} ms, p50 <= "
                f"{self.free_p50_s * 1e3:g} ms, p99 <= {self.free_p99_s * 1e3:g} ms of "
                f"{self.free_count} (a step: mean {self.step_mean_s * 1e3:.2f} ms, p99 <= "
                f"{self.step_p99_s * 1e3:g} ms); {self.neighbour_texts} texts of a neighbour, "
                f"changed {self.neighbour_changed} | left: {self.left} |")


def victim(address, seed):
    """Runs in a process of its own until it is killed."""
    link = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    stub = generation_pb2_grpc.GenerationStub(link)
    rng = random.Random(seed)
    calls = []
    for _ in range(STREAMS):
        message = generate_pb2.GenerateRequest()
        message.token_ids.ids.extend(rng.randrange(5, 500) for _ in range(rng.choice((3, 50, 600))))
        message.stopping.ignore_eos = True
        calls.append(stub.GenerateStream(message))
    while True:
        for _ in calls[0]:
            pass
        time.sleep(1)


class _Neighbour(threading.Thread):
    """Streams the same seeded request all the time; counts the texts that differ."""

    def __init__(self, stub):
        super().__init__()
        self._stub = stub
        self._expected = self._text()
        self._ended = threading.Event()
        self.texts = self.changed = 0

    def _text(self):
        message = request("Tell me a story about a fox.", sampling=params_pb2.SamplingParams(
            temperature=1.5, top_k=0, top_p=1, seed=11),
            stopping=params_pb2.StoppingParams(max_tokens=40, ignore_eos=True))
        return "".join(event.delta.text for event in self._stub.GenerateStream(message,
                                                                               timeout=120))

    def run(self):
        while not self._ended.is_set():
            same = self._text() == self._expected
            self.texts += 1
            self.changed += not same

    def end(self):
        self._ended.set()
        self.join()


def _victims():
    """Makes processes that have this module imported, and nothing of gRPC started, when forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed_clients"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # its only way to hear of our paths
    multiprocessing.forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before
    return context


def run(kills=1000, together=6, seed=1):
    context = _victims()
    rng = random.Random(seed)
    server = Server()
    try:
        neighbour = _Neighbour(server.stub)
        neighbour.start()
        victims, started = [], 0
        while started < kills or victims:
            while started < kills and len(victims) < together:
                process = context.Process(target=victim, args=(server.grpc_address, started),
                                          daemon=True)
                process.start()
                victims.append((time.monotonic() + rng.uniform(0, 0.3), process))
                started += 1
            victims.sort(key=lambda entry: entry[0])
            due, process = victims.pop(0)
            time.sleep(max(0.0, due - time.monotonic()))
            process.kill()
            process.join()
        neighbour.end()
        left = left_over(server)
        text = server.http("/metrics")[1]
        cancelled = int(server.metric("tandem_cancellations_total", cause="client"))
    finally:
        code = server.stop()
    count, total, buckets = histogram(text, "tandem_cancel_to_free_seconds")
    steps, step_total, step_buckets = histogram(text, "tandem_step_seconds")
    return Result(kills, cancelled, neighbour.texts, neighbour.changed,
                  quantile_bound(buckets, count, 0.5), quantile_bound(buckets, count, 0.99),
                  total / max(1, count), count, step_total / max(1, steps),
                  quantile_bound(step_buckets, steps, 0.99), left, code)
