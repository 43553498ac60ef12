"""HTTP/2 by hand, for clients that do it wrong."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(
        ">I", stream) + payload


def header(name, value):
    """A header as HPACK writes it without table and without Huffman; at most 126 bytes each."""
    name, value = name.encode(), value.encode()
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


def call_headers(method="/tandem.v1.Generation/Generate"):
    return b"".join(header(*pair) for pair in (
        (":method", "POST"), (":scheme", "http"), (":path", method), (":authority", "localhost"),
        ("content-type", "application/grpc"), ("te", "trailers")))


def message(body):
    """`body` as gRPC frames it."""
    return b"\x00" + struct.pack(">I", len(body)) + body


def connect(server):
    host, port = server.grpc_address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=60)


def send(connection, data):
    """Whether all of `data` was taken; the server may well have hung up."""
    try:
        connection.sendall(data)
        return True
    except (ConnectionError, TimeoutError):
        return False


def receive_all(connection):
    """What the server says until it hangs up."""
    data = b""
    try:
        while more := connection.recv(65536):
            data += more
    except ConnectionError:
        pass
    return data
