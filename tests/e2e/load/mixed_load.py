"""Many clients, every kind of call, cancels and deadlines: each call ends as it may, nothing stays.

Figure  calls by how they ended; failures must be 0, and nothing may run, wait or hold blocks after.
"""

import asyncio
import collections
import dataclasses

from calls import FAILURES, learn_references
from conftest import Server
from scraped import left_over
from workers import Workers

NUM_REFERENCES = 16


@dataclasses.dataclass
class Result:
    clients: int
    seconds: float
    verdicts: collections.Counter
    problems: list
    left: tuple
    exit_code: int

    @property
    def failures(self):
        return sum(self.verdicts[name] for name in FAILURES)

    def row(self):
        total = sum(self.verdicts.values())
        ends = ", ".join(f"{name} {count}" for name, count in self.verdicts.most_common())
        return (f"| {self.clients} clients mixed, {self.seconds:.0f} s | {total} calls: {ends} | "
                f"failures {self.failures}; running, waiting, blocks after: {self.left} |")


def run(num_clients=200, seconds=120.0, processes=2, seed=1):
    server = Server()
    try:
        references = asyncio.run(learn_references(server.grpc_address, NUM_REFERENCES))
        with Workers(processes) as workers:
            wait = workers.start(server.grpc_address, num_clients, references, seconds, seed)
            outcomes = wait()
        left = left_over(server)
    finally:
        code = server.stop()
    return Result(num_clients, seconds, collections.Counter(o.verdict for o in outcomes),
                  [f"{o.verdict}: {o.detail}" for o in outcomes
                   if o.verdict in FAILURES], left, code)
