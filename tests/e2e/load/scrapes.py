"""/metrics under full load: how long a scrape takes while every seat is busy.

Figure  p50 and p99 of the time of a GET, on one connection, while 64 streams decode.
"""

import asyncio
import dataclasses
import http.client
import multiprocessing
import time

from calls import channel
from conftest import Server, eventually
from tandem.v1 import generate_pb2, generation_pb2_grpc


@dataclasses.dataclass
class Result:
    streams: int
    scrapes: int
    seconds: list  # per scrape, sorted
    fewest_running: int
    size_bytes: int
    bad: int
    exit_code: int

    def row(self):
        p50, p99 = (self.seconds[int(q * (len(self.seconds) - 1))] for q in (0.5, 0.99))
        return (f"| {self.scrapes} scrapes of /metrics under {self.streams} streams | p50 "
                f"{p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms, {self.size_bytes} bytes | at least "
                f"{self.fewest_running} streams running; bad answers {self.bad} |")


def keep_busy(address, streams):
    """Runs in a process of its own: as many streams as asked, renewed as they end."""

    async def one(stub, i):
        while True:
            message = generate_pb2.GenerateRequest(text=f"stream {i}")
            message.stopping.ignore_eos = True
            message.output.stream_interval_tokens = 64
            async for _ in stub.GenerateStream(message):
                pass

    async def every():
        stub = generation_pb2_grpc.GenerationStub(channel(address))
        await asyncio.gather(*(one(stub, i) for i in range(streams)))

    asyncio.run(every())


def run(scrapes=1000, streams=64):
    server = Server("--max-slots", str(streams), "--max-context", "4096")
    load = multiprocessing.get_context("spawn").Process(
        target=keep_busy, args=(server.grpc_address, streams), daemon=True)
    load.start()
    seconds, fewest, bad, size = [], streams, 0, 0
    try:
        eventually(lambda: server.metric("vllm:num_requests_running") == streams)
        connection = http.client.HTTPConnection(server.http_address, timeout=60)
        for _ in range(scrapes):
            start = time.monotonic()
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            body = answer.read()
            seconds.append(time.monotonic() - start)
            size = len(body)
            running = [line for line in body.decode().splitlines()
                       if line.startswith("vllm:num_requests_running{")]
            bad += answer.status != 200 or len(running) != 1
            fewest = min(fewest, int(float(running[0].split()[-1]))) if running else 0
            time.sleep(0.01)
    finally:
        load.kill()
        load.join()
        code = server.stop()
    return Result(streams, scrapes, sorted(seconds), fewest, size, bad, code)
