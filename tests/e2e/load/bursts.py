"""Bursts against a full server: the queue takes what it may hold and not one more.

One seat, taken by a stream. Then 500 calls at once: the queue's limit of them wait, the others get
RESOURCE_EXHAUSTED QUEUE_FULL. A burst during which the seat fell free is not counted.

Figure  the most and the fewest calls that a burst got into the queue.
"""

import asyncio
import dataclasses

import grpc
from calls import PATIENCE_S, channel, reason_of
from conftest import Server
from scraped import left_over
from tandem.v1 import generate_pb2, generation_pb2_grpc

LIMIT = 64


@dataclasses.dataclass
class Result:
    bursts: int = 0
    repeated: int = 0
    calls: int = 0
    accepted: list = dataclasses.field(default_factory=list)  # per burst
    problems: list = dataclasses.field(default_factory=list)
    left: tuple = ()
    exit_code: int = 0

    def row(self):
        return (f"| {self.bursts} bursts of {self.calls // max(1, self.bursts)} calls, queue limit "
                f"{LIMIT} | accepted per burst: {min(self.accepted)} to {max(self.accepted)}; "
                f"bursts repeated because the seat fell free: {self.repeated} | untyped refusals "
                f"{len(self.problems)}; left: {self.left} |")


def endless():
    message = generate_pb2.GenerateRequest(text="The")
    message.stopping.ignore_eos = True
    message.output.stream_interval_tokens = 1024
    return message


async def _burst(server, stubs, size, result):
    holder = stubs[0].GenerateStream(endless())
    await holder.read()  # accepted: it has the seat
    refused, calls = 0, []

    async def one(i):
        nonlocal refused
        message = generate_pb2.GenerateRequest(text=f"burst {i}")
        message.stopping.max_tokens = 1
        method = stubs[i % len(stubs)].Generate
        if i % 2:
            method = stubs[i % len(stubs)].GenerateStream
        call = method(message, timeout=PATIENCE_S)
        calls.append(call)
        try:
            if i % 2:
                async for _ in call:
                    pass
            else:
                await call
        except asyncio.CancelledError:
            pass
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and reason_of(
                    error) == "QUEUE_FULL":
                refused += 1
            else:
                result.problems.append(f"{error.code()} {error.details()}")

    tasks = [asyncio.ensure_future(one(i)) for i in range(size)]
    loop = asyncio.get_running_loop()
    waiting, end = 0, loop.time() + 60
    # Settled when everyone is refused or waits.
    while refused + waiting < size and not holder.done() and not result.problems:
        await asyncio.sleep(0.005)
        waiting = int(await asyncio.to_thread(
            server.metric, "vllm:num_requests_waiting")) if refused else 0
        if loop.time() > end:
            result.problems.append(f"never settled: {refused} refused, {waiting} waiting")
    valid = not holder.done()
    accepted = size - refused
    for call in calls:
        call.cancel()
    await asyncio.gather(*tasks)
    holder.cancel()
    while not await asyncio.to_thread(server.idle):
        await asyncio.sleep(0.002)
    return valid, accepted


async def _run(server, bursts, size, result):
    links = [channel(server.grpc_address) for _ in range(4)]
    stubs = [generation_pb2_grpc.GenerationStub(link) for link in links]
    while result.bursts < bursts and not result.problems:
        valid, accepted = await _burst(server, stubs, size, result)
        if valid:
            result.bursts += 1
            result.calls += size
            result.accepted.append(accepted)
        else:
            result.repeated += 1
    for link in links:
        await link.close()


def run(bursts=200, size=500):
    server = Server("--max-queued-requests", str(LIMIT), "--max-slots", "1", "--max-context",
                    "4096")
    result = Result()
    try:
        asyncio.run(_run(server, bursts, size, result))
        result.left = left_over(server)
    finally:
        result.exit_code = server.stop()
    return result
