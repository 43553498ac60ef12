"""A TCP proxy that does to bytes what networks do: delays, trickles, stalls, cuts, loses.

In        the address of a server; a Link for either direction, read anew for every chunk of bytes.
Out       an address for clients; how many bytes went each way.
Not here  HTTP/2: the proxy sees bytes, so that a cut falls inside a frame as readily as between two.
Threads   one of its own runs all connections; the methods may be called from any other.
"""

import asyncio
import contextlib
import dataclasses
import random
import socket
import struct
import threading

CHUNK_BYTES = 4096
QUEUED_CHUNKS = 256  # per direction: what may be under way on a link with latency


@dataclasses.dataclass
class Link:
    """One direction of every connection. The counts are of bytes per connection."""

    latency_s: float = 0.0
    jitter_s: float = 0.0  # up to so much more, anew for every chunk; order is kept
    bytes_per_s: float = 0.0  # 0: no limit
    stall_at: int | None = None  # after so many bytes nothing moves ...
    stall_s: float = 0.0  # ... for so long, once per connection
    end_at: int | None = None  # after so many bytes the link ends ...
    end: str = "reset"  # ... by `reset` or `close` of both sides, `half-close`, or `swallow`


class FaultProxy:
    """Listens when constructed, until closed."""

    def __init__(self, target, to_server=None, to_client=None):
        self.to_server = to_server or Link()
        self.to_client = to_client or Link()
        self.num_connections = 0
        self._target = target.rsplit(":", 1)
        self._sockets = set()
        self._tasks = set()
        self._random = random.Random(1)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._server.sockets[0].getsockname()[1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def reset(self):
        """Breaks every connection now, as a router does that forgot them."""

        async def reset_all():
            for writer in list(self._sockets):
                _reset(writer)

        self._run(reset_all())

    def close(self):
        async def end():
            self._server.close()
            for writer in list(self._sockets):
                writer.transport.abort()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _serve(self, from_client, client):
        self._tasks.add(asyncio.current_task())
        self.num_connections += 1
        self._sockets.add(client)
        server = None
        try:
            from_server, server = await asyncio.open_connection(*self._target)
            self._sockets.add(server)
            for writer in (client, server):
                writer.transport.set_write_buffer_limits(high=CHUNK_BYTES)
            await asyncio.gather(self._pump(from_client, server, client, lambda: self.to_server),
                                 self._pump(from_server, client, server, lambda: self.to_client))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for writer in (client, server):
                if writer is not None:
                    self._sockets.discard(writer)
                    writer.transport.abort()
            self._tasks.discard(asyncio.current_task())

    async def _pump(self, source, sink, origin, link):
        """Moves bytes from `source` to `sink`; `origin` writes to where `source` reads from."""
        under_way = asyncio.Queue(QUEUED_CHUNKS)

        async def read():
            due = 0.0
            while True:
                try:
                    chunk = await source.read(CHUNK_BYTES)
                except OSError:
                    chunk = None  # reset by the sender: passed on as such
                delay = link().latency_s + self._random.random() * link().jitter_s
                due = max(due, self._loop.time() + delay)
                await under_way.put((due, chunk))
                if not chunk:
                    return

        reader = asyncio.ensure_future(read())
        sent, stalled = 0, False
        try:
            while True:
                due, chunk = await under_way.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if chunk is None:
                    _reset(sink)
                    return
                if not chunk:
                    with contextlib.suppress(OSError):
                        sink.write_eof()
                    return
                while chunk:
                    now = link()
                    part = len(chunk)
                    if now.bytes_per_s:
                        part = min(part, 64)
                    if now.stall_at is not None and not stalled:
                        if sent >= now.stall_at:
                            stalled = True
                            await asyncio.sleep(now.stall_s)
                            continue
                        part = min(part, now.stall_at - sent)
                    if now.end_at is not None:
                        if sent >= now.end_at:
                            if now.end == "swallow":
                                break
                            if now.end == "half-close":
                                sink.write_eof()
                                await self._swallow(under_way)
                                return
                            for writer in (sink, origin):
                                _reset(writer) if now.end == "reset" else writer.close()
                            return
                        part = min(part, now.end_at - sent)
                    sink.write(chunk[:part])
                    await sink.drain()
                    sent += part
                    chunk = chunk[part:]
                    if now.bytes_per_s:
                        await asyncio.sleep(part / now.bytes_per_s)
        finally:
            reader.cancel()

    @staticmethod
    async def _swallow(under_way):
        while (await under_way.get())[1]:
            pass


def _reset(writer):
    """Ends a connection with RST instead of FIN."""
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
