"""A name server as a cluster has one: answers A for the names it knows, NXDOMAIN for all others."""

import socket
import socketserver
import struct
import threading

NO_SUCH_NAME = 3


class NameServer:
    """`names`: {absolute name: IPv4 address}. Listens on 127.0.0.1:53, UDP; `asked` are the names it was asked for."""

    def __init__(self, names):
        self.asked, outer = set(), self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                data, server = self.request
                server.sendto(outer.answer(data, names), self.client_address)

        self._server = socketserver.ThreadingUDPServer(("127.0.0.1", 53), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def answer(self, query, names):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode())
            at += 1 + query[at]
        question, name = query[12:at + 5], ".".join(labels).lower()
        record_type, = struct.unpack("!H", query[at + 1:at + 3])
        self.asked.add(name)
        records = b""
        if name in names and record_type == 1:  # A; others of a known name are an empty answer
            records = struct.pack("!HHHIH", 0xC00C, 1, 1, 5, 4) + socket.inet_aton(names[name])
        code = 0 if name in names else NO_SUCH_NAME
        return query[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, 1 if records else 0, 0, 0) + question + records

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *unused):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
