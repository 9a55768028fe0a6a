#!/usr/bin/env python3
"""Print the A records that a DNS server gives for a name. usage: dnsquery SERVER NAME"""

import socket
import struct
import sys


def query(server: str, name: str, timeout: float = 1.0) -> list[str]:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    question = labels + b"\0" + struct.pack("!HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(timeout)
        sock.sendto(struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + question, (server, 53))
        answer = sock.recv(4096)
    count, offset = struct.unpack("!H", answer[6:8])[0], 12 + len(question)
    addresses = []
    for _ in range(count):
        while answer[offset] and answer[offset] < 0xC0:  # a name: labels, then a zero or a pointer
            offset += 1 + answer[offset]
        offset += 2 if answer[offset] else 1
        kind, _, _, size = struct.unpack("!HHIH", answer[offset : offset + 10])
        offset += 10
        if kind == 1:
            addresses.append(socket.inet_ntoa(answer[offset : offset + size]))
        offset += size
    return addresses


if __name__ == "__main__":
    print("\n".join(query(sys.argv[1], sys.argv[2])))
