"""SIGTERM under load, again and again: what was accepted is finished.

A call is accepted when its headers or an event reached the client, or when it ended OK. Calls that
begin after SIGTERM may be accepted (grace), refused (UNAVAILABLE DRAINING), or find no server: those
that gRPC cuts while it closes connections are counted apart.

Figure  accepted calls that were in flight at a SIGTERM; those of them lost must be 0, exit codes 0.
"""

import asyncio
import dataclasses
import random
import signal
import time

from calls import learn_references
from conftest import Server
from workers import Workers

NUM_REFERENCES = 8
OWN_WISH = ("cancelled", "deadline")
REFUSED = ("draining", "closed", "cut")


@dataclasses.dataclass
class Result:
    restarts: int = 0
    in_flight: int = 0  # accepted, under way at SIGTERM
    finished: int = 0  # of those: OK
    own_wish: int = 0  # of those: cancelled or late, by the client
    accepted_in_grace: int = 0
    refused: int = 0  # typed DRAINING
    not_connected: int = 0  # began after SIGTERM, found no server
    cut: int = 0  # began after SIGTERM, met gRPC closing its connections
    problems: list = dataclasses.field(default_factory=list)
    exit_codes: set = dataclasses.field(default_factory=set)

    def row(self):
        return (f"| SIGTERM under load, {self.restarts} restarts | {self.in_flight} accepted in "
                f"flight: OK {self.finished}, own cancel or deadline {self.own_wish}; in the grace "
                f"period accepted {self.accepted_in_grace}, then DRAINING {self.refused}, no server "
                f"{self.not_connected}, cut by gRPC {self.cut} | lost {len(self.problems)}; exit codes "
                f"{sorted(self.exit_codes)} |")


def add(result, outcomes, signal_at):
    """Counts the calls of one restart."""
    for o in outcomes:
        before = o.started < signal_at
        if o.verdict not in ("ok", "invalid", "queue_full", *REFUSED, *OWN_WISH):
            result.problems.append(f"{o.verdict}: {o.detail}")
        elif before and o.verdict in REFUSED:
            # With a grace period, what was on its way at the signal is taken.
            result.problems.append(f"{o.verdict}, begun before SIGTERM: {o.detail}")
        elif before and o.ended <= signal_at:
            pass
        elif before and (o.accepted or o.verdict == "ok"):
            result.in_flight += 1
            result.finished += o.verdict == "ok"
            result.own_wish += o.verdict in OWN_WISH
        elif not before:
            result.accepted_in_grace += o.accepted or o.verdict == "ok"
            result.refused += o.verdict == "draining"
            result.not_connected += o.verdict == "closed"
            result.cut += o.verdict == "cut"


def run(target=2000, max_restarts=100, num_clients=200, processes=2, grace_s=1, seed=1):
    """Restarts until `target` accepted calls were in flight at a signal."""
    result, rng = Result(), random.Random(seed)
    with Workers(processes) as workers:
        while result.in_flight < target and result.restarts < max_restarts:
            server = Server("--drain-grace-s", str(grace_s), "--drain-timeout-s", "120")
            try:
                references = asyncio.run(learn_references(server.grpc_address, NUM_REFERENCES))
                wait = workers.start(server.grpc_address, num_clients, references, 300,
                                     seed * 1000 + result.restarts, until=REFUSED)
                time.sleep(rng.uniform(1.5, 3))
                signal_at = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                outcomes = wait()
            finally:
                result.exit_codes.add(server.stop())
            result.restarts += 1
            add(result, outcomes, signal_at)
    return result
