"""Two tenants, one of which floods: what the other one notices.

Alternately, in one run: the quiet tenant sends requests one by one with nobody there, then as many
while the other tenant's flood of 100 requests is answered. All prompts have the same length.

Figure  median time to the first token alone and beside the flood; how many of the flood's requests
        ended between a quiet request and its first token (first come, first served: nearly all).
"""

import asyncio
import dataclasses
import statistics
import time

from calls import PATIENCE_S, channel
from conftest import Server
from scraped import left_over
from tandem.v1 import generate_pb2, generation_pb2_grpc

FLOOD = 100
PROMPT_TOKENS = 256
ANSWER_TOKENS = 64  # of the flood; the quiet tenant reads four
MEASURED = 5  # quiet requests per flood


@dataclasses.dataclass
class Result:
    pairs: int
    alone_s: list
    flood_s: list
    overtaken_by: list  # requests of the flood that ended before the quiet one's first token
    left: tuple
    exit_code: int

    def row(self):
        alone, flood = statistics.median(self.alone_s), statistics.median(self.flood_s)
        return (f"| two tenants, one sends {FLOOD} requests at once, {self.pairs} pairs | the "
                f"other's p50 TTFT {alone * 1e3:.1f} ms alone, {flood * 1e3:.1f} ms beside the flood, "
                f"{len(self.flood_s)} requests each | ratio {flood / alone:.2f}; flood requests that "
                f"ended first: at most {max(self.overtaken_by)} |")


def _message(tenant, first, max_tokens):
    message = generate_pb2.GenerateRequest()
    message.token_ids.ids.extend([2, 5 + first % 400, *range(20, 18 + PROMPT_TOKENS)])
    message.sampling.temperature = 0
    message.stopping.max_tokens = max_tokens
    message.stopping.ignore_eos = True
    message.scheduling.tenant = tenant
    return message


async def _first_token_s(stub, first):
    start = time.monotonic()
    ttft = None
    async for event in stub.GenerateStream(_message("quiet", first, 4), timeout=PATIENCE_S):
        if ttft is None and event.HasField("delta"):
            ttft = time.monotonic() - start
    return ttft


async def _run(server, pairs, result):
    links = [channel(server.grpc_address) for _ in range(2)]
    quiet, loud = (generation_pb2_grpc.GenerationStub(link) for link in links)
    await _first_token_s(quiet, 0)
    for pair in range(pairs):
        for i in range(MEASURED):
            result.alone_s.append(await _first_token_s(quiet, 11 * pair + i))
        ended = 0

        async def flood(i):
            nonlocal ended
            await loud.Generate(_message("loud", i, ANSWER_TOKENS), timeout=PATIENCE_S)
            ended += 1

        tasks = [asyncio.ensure_future(flood(7 * pair + i)) for i in range(FLOOD)]
        while not await asyncio.to_thread(server.metric, "vllm:num_requests_waiting"):
            await asyncio.sleep(0.002)
        for i in range(MEASURED):
            before = ended
            ttft = await _first_token_s(quiet, 11 * pair + MEASURED + i)
            if ended == FLOOD:
                break  # nobody was there any more
            result.flood_s.append(ttft)
            result.overtaken_by.append(ended - before)
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        while not await asyncio.to_thread(server.idle):
            await asyncio.sleep(0.002)
    for link in links:
        await link.close()


def run(pairs=50):
    server = Server()
    result = Result(pairs, [], [], [], (), 0)
    try:
        asyncio.run(_run(server, pairs, result))
        result.left = left_over(server)
    finally:
        result.exit_code = server.stop()
    return result
