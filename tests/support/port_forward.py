"""The API server's side of a forwarded port: a WebSocket that leads to a port of this machine."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler

ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
DATA, ERROR = b"\0", b"\1"
BINARY, CLOSE = 2, 8


def forward(handler: BaseHTTPRequestHandler, port: int) -> None:
    """Answers a request for a forwarded port, and carries what is sent both ways until either side ends.

    Args:
        handler: The request.
        port: Of this machine; one where nobody listens is said on the error channel, as the kubelet does.
    """
    key = base64.b64encode(hashlib.sha1(handler.headers["Sec-WebSocket-Key"].encode() + ACCEPT).digest())
    handler.send_response(101)
    for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", key.decode())):
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.flush()
    handler.close_connection = True
    number = struct.pack("<H", port)
    _frame(handler, DATA + number)
    _frame(handler, ERROR + number)
    try:
        there = socket.create_connection(("127.0.0.1", port), timeout=10)
    except OSError:
        _frame(handler, ERROR + b"connection refused")
        return
    with there:
        threading.Thread(target=_from_pod, args=(handler, there), daemon=True).start()
        with contextlib.suppress(OSError):
            while (payload := _received(handler)) is not None:
                there.sendall(payload[1:])


def _from_pod(handler: BaseHTTPRequestHandler, there: socket.socket) -> None:
    with contextlib.suppress(OSError):
        there.settimeout(None)
        while data := there.recv(65536):
            _frame(handler, DATA + data)
        _frame(handler, b"", CLOSE)


def _frame(handler: BaseHTTPRequestHandler, payload: bytes, opcode: int = BINARY) -> None:
    size = len(payload)
    length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size) if size < 65536 else b""
    handler.wfile.write(bytes([0x80 | opcode]) + (length or b"\x7f" + struct.pack(">Q", size)) + payload)
    handler.wfile.flush()


def _received(handler: BaseHTTPRequestHandler) -> bytes | None:
    """The next frame's content; None at the end."""
    head = handler.rfile.read(2)
    if len(head) < 2 or head[0] & 0x0F == CLOSE:
        return None
    size = head[1] & 0x7F
    if size == 126:
        (size,) = struct.unpack(">H", handler.rfile.read(2))
    elif size == 127:
        (size,) = struct.unpack(">Q", handler.rfile.read(8))
    mask, masked = handler.rfile.read(4), handler.rfile.read(size)
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked))
