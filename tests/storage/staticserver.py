"""A folder behind HTTP, readable as a web server and as a read-only S3 or Google bucket, counting what it sends.

``/bucket/key`` is a file of the folder. Ranges and suffix ranges are answered, ETags change with the file. With ``key``
set, requests must be signed by that access key, as a private bucket asks.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path  # noqa: TC003 an annotation of the dataclass
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class StaticServer:
    folder: Path
    key: str = ""
    log: list[tuple[str, str, str | None, int]] = field(default_factory=list)

    def start(self) -> StaticServer:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                outer._answer(self)

            do_HEAD = do_GET  # noqa: N815 the name that the base class looks for

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 64

            def process_request(self, request: object, address: object) -> None:
                # A connection that the client's library keeps has its thread here; named as pools' are, so that
                # the watch on what a test leaves behind passes it over.
                threading.Thread(
                    target=self.process_request_thread,
                    args=(request, address),
                    daemon=True,
                    name="ThreadPoolExecutor-static",
                ).start()

            def handle_error(self, *_: object) -> None:  # clients that go away are part of the tests
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, name="staticserver", daemon=True)
        self.thread.start()
        return self

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def clear(self) -> None:
        self.log.clear()

    @property
    def data(self) -> list[tuple[str, str, str | None, int]]:
        """Requests for chunks and ranges that were answered with bytes; not for metadata."""
        return [
            entry for entry in self.log if entry[3] and not entry[1].endswith((".json", ".zarray", ".zattrs"))
        ]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        path = self.folder / unquote(parts.path).lstrip("/")
        wanted = request.headers.get("Range")
        if self.key and f"Credential={self.key}/" not in request.headers.get("Authorization", ""):
            code = (
                "InvalidAccessKeyId"
                if "Credential=" in request.headers.get("Authorization", "")
                else "AccessDenied"
            )
            self._send(request, 403, f"<Error><Code>{code}</Code></Error>".encode(), {})
        elif "list-type" in (query := parse_qs(parts.query)):
            self._list(request, path, query)
        elif not path.is_file():
            bucket = self.folder / unquote(parts.path).lstrip("/").partition("/")[0]
            code = "NoSuchKey" if bucket.is_dir() else "NoSuchBucket"
            self._send(request, 404, f"<Error><Code>{code}</Code></Error>".encode(), {}, note=0)
        else:
            data, tag = path.read_bytes(), f'"{path.stat().st_mtime_ns}-{path.stat().st_size}"'
            self._file(request, data, {"ETag": tag}, wanted)

    def _file(
        self, request: BaseHTTPRequestHandler, data: bytes, headers: dict[str, str], wanted: str | None
    ) -> None:
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
        if match is None:
            return self._send(request, 200, data, headers)
        first, last = match.groups()
        start = int(first) if first else max(len(data) - int(last), 0)
        stop = min(int(last) + 1, len(data)) if first and last else len(data)
        if start >= stop:
            return self._send(request, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return self._send(request, 206, data[start:stop], headers)

    def _list(self, request: BaseHTTPRequestHandler, bucket: Path, query: dict[str, list[str]]) -> None:
        if not bucket.is_dir():
            self._send(request, 404, b"<Error><Code>NoSuchBucket</Code></Error>", {})
            return
        prefix, after = query.get("prefix", [""])[0], query.get("start-after", [""])[0]
        keys = sorted(str(file.relative_to(bucket)) for file in bucket.rglob("*") if file.is_file())
        keys = [key for key in keys if key.startswith(prefix) and key > after]
        items = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
        counts = f"<KeyCount>{len(keys)}</KeyCount><IsTruncated>false</IsTruncated>"
        text = f"<ListBucketResult>{counts}{items}</ListBucketResult>"
        self._send(request, 200, text.encode(), {"Content-Type": "application/xml"}, note=0)

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str],
        note: int | None = None,
    ) -> None:
        sent = 0 if request.command == "HEAD" or status >= 400 else len(body)
        self.log.append(
            (request.command, request.path, request.headers.get("Range"), sent if note is None else note)
        )
        request.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body)
