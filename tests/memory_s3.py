"""An S3 server in memory, which is as odd as a test wants it: other servers than ours, and buckets with settings.

It keeps every key as it is, lists bytewise, and knows nothing of signatures. `odd` holds what is odd about it:

    etags        etags are random: 32 hex digits, and no MD5, as under SSE-KMS and in some other stores
    checksums    it refuses the newer checksum headers, with 400
    conditions   it refuses conditional requests, with 501
    payer        it refuses requests that don't accept to pay
    slashes      it joins slashes in keys, as servers do that store files
"""

import contextlib
import hashlib
import os
import re
import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote_plus, unquote
from xml.sax.saxutils import escape

import pytest

from vitseg.storage import s3_client

_CHECKSUMS = re.compile(r"x-amz-(checksum-(?!mode)|sdk-checksum-|trailer)")
_ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message>{}</Error>"


class MemoryS3(ThreadingHTTPServer):
    """The server; a context manager, listening at `url` while it is open. It has one bucket, `bucket`.

    Args:
        odd: what is odd about it.
        page: keys a page of a listing.
        token: the session token that requests must have.
        region: the region in which requests must be signed.
    """

    daemon_threads = True

    def __init__(self, *odd: str, page: int = 1000, token: str = "", region: str = "") -> None:
        assert set(odd) <= {"etags", "checksums", "conditions", "payer", "slashes"}
        super().__init__(("127.0.0.1", 0), _Handler)
        self.odd, self.page, self.token, self.region = set(odd), page, token, region
        self.objects: dict[str, tuple[bytes, str]] = {}  # key → content, etag
        self.random_etags = re.compile("" if "etags" in odd else r"(?!)")  # of which keys
        self.requests: Counter[str] = Counter()  # by method; LIST apart
        self.names: set[str] = set()  # of all headers, small letters
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> "MemoryS3":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may go away."""

    def put(self, key: str, data: bytes) -> str:
        """Store an object; return its etag."""
        if "slashes" in self.odd:
            key = re.sub("/+", "/", key).lstrip("/")
        etag = secrets.token_hex(16) if self.random_etags.search(key) else hashlib.md5(data).hexdigest()
        self.objects[key] = (data, etag)
        return etag


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: MemoryS3

    def _respond(self) -> None:
        path, _, query = self.requestline.split()[1].partition("?")  # `self.path` joins slashes at its beginning
        bucket, _, key = path[1:].partition("/")
        body = self._body()
        names = {name.lower() for name in self.headers}
        self.server.names |= names
        listing = self.command == "GET" and not key
        self.server.requests["LIST" if listing else self.command] += 1
        if refusal := self._refusal(names):
            self._send(*refusal)
        elif bucket != "bucket":
            self._send(404, "NoSuchBucket", "")
        elif listing:
            self._list(dict(parse_qsl(query, keep_blank_values=True)))
        else:
            getattr(self, f"_{self.command.lower()}")(unquote(key), body)

    do_GET = do_HEAD = do_PUT = do_DELETE = _respond  # noqa: N815

    def _refusal(self, names: set[str]) -> tuple[int, str, str] | None:
        odd, headers = self.server.odd, self.headers
        if self.server.token and headers.get("x-amz-security-token") != self.server.token:
            return 400, "ExpiredToken", "The provided token has expired."
        if "payer" in odd and headers.get("x-amz-request-payer") != "requester":
            return 403, "AccessDenied", "Access Denied"
        if self.server.region and f"/{self.server.region}/s3/" not in headers.get("Authorization", ""):
            return 400, "AuthorizationHeaderMalformed", f"the region is wrong; expecting '{self.server.region}'"
        if "checksums" in odd and (refused := sorted(filter(_CHECKSUMS.match, names))):
            return 400, "InvalidArgument", f"Unsupported header '{refused[0]}' received for this API call."
        if "conditions" in odd and names & {"if-match", "if-none-match"}:
            return 501, "NotImplemented", "A header implies functionality that is not implemented."
        return None

    def _put(self, key: str, body: bytes) -> None:
        there = self.server.objects.get(key)
        wanted = self.headers.get("If-Match")
        if (self.headers.get("If-None-Match") and there) or (wanted and (not there or wanted.strip('"') != there[1])):
            self._send(412, "PreconditionFailed", "")
        else:
            self._send(200, etag=self.server.put(key, body))

    def _get(self, key: str, _: bytes) -> None:
        if "slashes" in self.server.odd:
            key = re.sub("/+", "/", key).lstrip("/")
        if key not in self.server.objects:
            return self._send(404, "NoSuchKey", "")
        data, etag = self.server.objects[key]
        return self._send(200, data, etag=etag)

    _head = _get

    def _delete(self, key: str, _: bytes) -> None:
        self.server.objects.pop(key, None)
        self._send(204)

    def _list(self, query: dict[str, str]) -> None:
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "").encode()
        if "slashes" in self.server.odd:
            prefix = re.sub("/+", "/", prefix).lstrip("/")
        keys = sorted((key for key in list(self.server.objects) if key.startswith(prefix)), key=str.encode)
        keys = [key for key in keys if key.encode() > after]
        shown, more = keys[: self.server.page], len(keys) > self.server.page
        rows = "".join(
            f"<Contents><Key>{escape(quote_plus(key, safe='/'))}</Key><Size>{len(self.server.objects[key][0])}</Size>"
            f'<ETag>"{self.server.objects[key][1]}"</ETag></Contents>'
            for key in shown
        )
        token = f"<NextContinuationToken>{escape(shown[-1]) if shown else ''}</NextContinuationToken>" if more else ""
        self._send(
            200,
            f"<?xml version='1.0' encoding='UTF-8'?><ListBucketResult><EncodingType>url</EncodingType>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{rows}</ListBucketResult>".encode(),
        )

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        content = b""
        while size := int((head := data.partition(b"\r\n"))[0].split(b";")[0], 16):
            content, data = content + head[2][:size], head[2][size + 2 :]
        return content

    def _send(self, status: int, content: bytes | str = b"", message: str = "", *, etag: str = "") -> None:
        if isinstance(content, str):
            region = f"<Region>{self.server.region}</Region>" if self.server.region else ""
            content = _ERROR.format(content, message, region).encode()
        self.send_response(status)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@contextlib.contextmanager
def memory_s3(*odd: str, page: int = 1000, token: str = "", region: str = "", **variables: str) -> Iterator[MemoryS3]:
    """Point this process to such a server, with these AWS_ variables and no other ones."""
    with MemoryS3(*odd, page=page, token=token, region=region) as server, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL_S3", server.url)
        given = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"} if not variables.pop("bare", "") else {}
        for name, value in {"AWS_EC2_METADATA_DISABLED": "true", **given, **variables}.items():
            patch.setenv(name, value)
        s3_client.forget_connections()
        yield server
    s3_client.forget_connections()
