"""An S3 server that often fails: a proxy in front of a good one, which spoils a share of its responses.

    refused       500 InternalError                                 slow_down     503 SlowDown
    reset         the connection is reset, nothing was done         lost          done, but reset before the response
    broken        reset in the middle of the response               cut           the response ends in the middle
    cut_headers   it ends before its headers, or at `cut_at`        empty         it ends after its headers
    stall         the response is late, and good                    conflict      409, for conditional puts

Responses without content break off in the middle of their headers instead.

A seed, the method and address of a request, and how often it came before decide whether it fails: so the same requests
meet the same faults, whatever the threads do. The kinds take turns, so that each has its share.
"""

import contextlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from vitseg.storage import s3_client

KINDS = ("refused", "slow_down", "reset", "lost", "broken", "cut", "cut_headers", "empty", "stall")
"""What any request may meet; `conflict` is not among them."""
_REFUSALS = {
    "refused": (500, "InternalError"),
    "slow_down": (503, "SlowDown"),
    "conflict": (409, "ConditionalRequestConflict"),
}
_HOP_BY_HOP = {"connection", "keep-alive", "expect", "transfer-encoding"}
_ERROR = "<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{}</Code><Message>A fault of the test</Message></Error>"


class FaultyStore(ThreadingHTTPServer):
    """The proxy; a context manager, listening at `url` while it is open.

    Args:
        endpoint: `http://host:port` of the good server.
        share: of requests that fail, 0–1.
        kinds: of faults, any of `KINDS`, or `conflict`.
        seed: decides which requests fail.
        stall: seconds by which a response is late.
        most: faults that one request meets at most; None for no limit.
        methods: the methods that may fail; all of them by default.
        cut_at: bytes of a response before it ends, for `cut_headers`.
        length_last: put Content-Length after all other headers; servers differ in that.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        endpoint: str,
        *,
        share: float = 0.05,
        kinds: Sequence[str] = KINDS,
        seed: int = 0,
        stall: float = 2.0,
        most: int | None = None,
        methods: Sequence[str] | None = None,
        cut_at: int | None = None,
        length_last: bool = False,
    ) -> None:
        assert set(kinds) <= {*KINDS, "conflict"}
        super().__init__(("127.0.0.1", 0), _Handler)
        parts = urlsplit(endpoint)
        self.target = (str(parts.hostname), parts.port or 80)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.share, self.stall, self.most, self.methods, self.cut_at = share, stall, most, methods, cut_at
        self.length_last = length_last
        self.faults: Counter[str] = Counter()  # by kind
        self.requests: Counter[str] = Counter()  # by method
        self._seed = seed
        self._seen: Counter[str] = Counter()
        self._met: Counter[str] = Counter()
        self._deck = list(kinds)
        random.Random(seed).shuffle(self._deck)
        self._lock = threading.Lock()

    def __enter__(self) -> "FaultyStore":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()

    def fault_of(self, method: str, address: str) -> str | None:
        """Return the kind of fault that a request meets, or None."""
        request = f"{method} {address}"
        with self._lock:
            self.requests[method] += 1
            self._seen[request] += 1
            draw = random.Random(f"{self._seed} {request} {self._seen[request]}").random()
            exempt = self.methods is not None and method not in self.methods
            if draw >= self.share or exempt or self._met[request] == self.most:
                return None
            self._met[request] += 1
            kind = self._deck[self.faults.total() % len(self._deck)]
            self.faults[kind] += 1
            return kind

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may go away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    server: FaultyStore

    def _respond(self) -> None:
        address = self.requestline.split()[1]  # `self.path` joins slashes at its beginning
        kind = self.server.fault_of(self.command, address)
        if kind == "reset":
            return self._reset()
        body = self._body()
        if kind in _REFUSALS:
            status, code = _REFUSALS[kind]
            content = _ERROR.format(code).encode()
            headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))]
            return self._send(_head(status, "Fault", headers), b"" if self.command == "HEAD" else content)
        if kind == "stall":
            time.sleep(self.server.stall)
        head, content = self._forward(address, body)
        if kind == "lost":
            return self._reset()
        if kind == "cut_headers":
            cut_at = self.server.cut_at
            self._send(head[: head.index(b"\r\n") + 2 if cut_at is None else cut_at], b"")
        elif kind in ("broken", "cut", "empty") and not content:
            self._send(head[: len(head) // 2], b"")
        elif kind in ("broken", "cut"):
            self._send(head, content[: len(content) // 2])
        elif kind == "empty":
            self._send(head, b"")
        else:
            return self._send(head, content)
        if kind == "broken":
            return self._reset()
        self.close_connection = True
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _respond  # noqa: N815

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers of HTTP; those of aws-chunked are in the body
            pass
        return b"".join(parts)

    def _forward(self, address: str, body: bytes) -> tuple[bytes, bytes]:
        """Return head and body of the good server's response."""
        chunked = "Transfer-Encoding" in self.headers
        with contextlib.closing(http.client.HTTPConnection(*self.server.target, timeout=60)) as connection:
            connection.putrequest(self.command, address, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():  # Host, too: it is signed
                if name.lower() not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            if chunked:
                connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders(iter([body]) if chunked else body or None, encode_chunked=chunked)
            response = connection.getresponse()
            content = response.read()
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP]
        if self.server.length_last:
            headers.sort(key=lambda header: header[0].lower() == "content-length")
        bodiless = self.command == "HEAD" or response.status in (204, 304)
        if not bodiless and response.getheader("Content-Length") is None:
            headers.append(("Content-Length", str(len(content))))
        return _head(response.status, response.reason, headers), content

    def _send(self, head: bytes, content: bytes) -> None:
        self.wfile.write(head + content)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()  # it holds the socket open
        self.connection.close()
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Stay silent."""


def _head(status: int, reason: str, headers: list[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@contextlib.contextmanager
def through(proxy: FaultyStore) -> Iterator[None]:
    """Point this process to the proxy; pauses between retries are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        patch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 20)))
        s3_client.forget_connections()
        yield
    s3_client.forget_connections()
