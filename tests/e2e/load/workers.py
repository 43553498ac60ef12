"""Client processes: one interpreter cannot keep two hundred clients busy."""

import asyncio
import concurrent.futures
import multiprocessing
import time

from calls import clients


def _work(address, count, seed, references, seconds, until, wishes):
    end = time.monotonic() + seconds
    return asyncio.run(clients(
        address, count, seed, references,
        lambda outcome: outcome.verdict not in until and time.monotonic() < end, wishes))


class Workers:
    """`processes` processes that share the clients of one load; they start no server."""

    def __init__(self, processes):
        self._processes = processes
        self._pool = concurrent.futures.ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.shutdown()

    def start(self, address, num_clients, references, seconds, seed=0, until=(), wishes=True):
        """Starts `num_clients` clients that call for `seconds`, or until a verdict of `until`.

        Returns a function that waits for them and returns all outcomes.
        """
        shares = [num_clients // self._processes + (i < num_clients % self._processes)
                  for i in range(self._processes)]
        futures = [self._pool.submit(_work, address, share, seed * 1009 + i, references, seconds,
                                     until, wishes) for i, share in enumerate(shares) if share]
        return lambda: [outcome for future in futures for outcome in future.result()]
