"""The proxy itself does what the tests of the server believe it does."""

import socket
import socketserver
import threading
import time

import pytest
from fault_proxy import FaultProxy, Link


@pytest.fixture
def echo():
    """The address of a server that sends back what it gets."""

    class Echo(socketserver.BaseRequestHandler):
        def handle(self):
            try:
                while data := self.request.recv(65536):
                    self.request.sendall(data)
            except OSError:
                pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield "127.0.0.1:%d" % server.server_address[1]
        server.shutdown()


def connect(proxy):
    host, port = proxy.address.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def receive(connection, limit=1 << 20):
    """Bytes until `limit`, the end, or a reset; and which of the three."""
    data = b""
    try:
        while len(data) < limit:
            if not (more := connection.recv(limit - len(data))):
                return data, "end"
            data += more
    except ConnectionResetError:
        return data, "reset"
    return data, "limit"


@pytest.mark.parametrize("link", [Link(), Link(latency_s=0.01, jitter_s=0.05),
                                  Link(bytes_per_s=100_000), Link(stall_at=5000, stall_s=0.2)])
def test_slow_links_deliver_every_byte_in_order(echo, link):
    body = bytes(i * i % 251 for i in range(20_000))
    with FaultProxy(echo, to_client=link) as proxy, connect(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(body,))
        sender.start()
        assert receive(connection, len(body)) == (body, "limit")
        sender.join()


def test_a_delay_is_at_least_what_was_asked(echo):
    with FaultProxy(echo, Link(latency_s=0.1), Link(latency_s=0.1)) as proxy:
        with connect(proxy) as connection:
            start = time.monotonic()
            connection.sendall(b"x")
            assert receive(connection, 1)[0] == b"x"
            assert time.monotonic() - start >= 0.2


@pytest.mark.parametrize("end,seen", [("reset", "reset"), ("close", "end"), ("half-close", "end")])
def test_a_cut_falls_where_it_was_asked(echo, end, seen):
    with FaultProxy(echo, to_client=Link(end_at=1234, end=end)) as proxy:
        with connect(proxy) as connection:
            connection.sendall(b"y" * 5000)
            assert receive(connection) == (b"y" * 1234, seen)


def test_swallowed_bytes_leave_the_connection_open(echo):
    with FaultProxy(echo, to_client=Link(end_at=10, end="swallow")) as proxy:
        with connect(proxy) as connection:
            connection.sendall(b"z" * 100)
            assert receive(connection, 10) == (b"z" * 10, "limit")
            connection.settimeout(0.2)
            with pytest.raises(TimeoutError):
                connection.recv(1)


def test_a_reset_reaches_every_connection(echo):
    with FaultProxy(echo) as proxy, connect(proxy) as one, connect(proxy) as other:
        for connection in (one, other):
            connection.sendall(b"a")
            assert receive(connection, 1)[0] == b"a"
        proxy.reset()
        assert receive(one)[1] == receive(other)[1] == "reset"
        assert proxy.num_connections == 2
