"""As much of Amazon S3 as s3fs asks for, on the loopback: objects, ranges, listings, parts, removal.

docs.aws.amazon.com/AmazonS3/latest/API. Signatures are not looked at; buckets are the first part of the path.
A bucket may lie in a folder, so that what one stage puts there is found by the next.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape


class Bucket:
    """Objects by `bucket/key`. `dropped`: keys on whose writing the connection is cut."""

    def __init__(self, objects: MutableMapping[str, bytes] | None = None) -> None:
        self.objects: MutableMapping[str, bytes] = {} if objects is None else objects
        self.parts: dict[str, dict[int, bytes]] = {}
        self.asked: list[str] = []
        self.dropped: set[str] = set()
        self.url = ""


class Folders(MutableMapping[str, bytes]):
    """Objects that lie in folders, by the names of their buckets. A key that leads out of its bucket's folder
    is none (KeyError)."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = dict(folders)

    def _file(self, name: str) -> Path:
        bucket, _, key = name.partition("/")
        parts = key.split("/")
        if bucket not in self.folders or "\0" in key or any(part in ("", ".", "..") for part in parts):
            raise KeyError(name)
        return self.folders[bucket].joinpath(*parts)

    def __getitem__(self, name: str) -> bytes:
        try:
            return self._file(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise KeyError(name) from None

    def __setitem__(self, name: str, data: bytes) -> None:
        file = self._file(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def __delitem__(self, name: str) -> None:
        try:
            self._file(name).unlink()
        except FileNotFoundError:
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        for bucket, folder in self.folders.items():
            for path in folder.rglob("*"):
                if path.is_file():
                    yield f"{bucket}/{path.relative_to(folder).as_posix()}"

    def __len__(self) -> int:
        return sum(1 for _ in self)


@contextmanager
def s3(objects: MutableMapping[str, bytes] | None = None) -> Iterator[Bucket]:
    """A running S3 over some objects, kept in memory without any."""
    bucket = Bucket(objects)

    class Handler(_Handler):
        store = bucket

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    bucket.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    store: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        self.store.asked.append(format % args)

    def _where(self) -> tuple[str, dict[str, str]]:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return unquote(parts.path).lstrip("/"), query

    def _answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _missing(self) -> None:
        self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            found, rest = b"", data
            while rest:
                line, _, rest = rest.partition(b"\r\n")
                size = int(line.split(b";")[0], 16)
                if not size:
                    break
                found, rest = found + rest[:size], rest[size + 2 :]
            return found
        return data

    def do_HEAD(self) -> None:
        where, _ = self._where()
        if (data := self.store.objects.get(where)) is None:
            return self._missing()
        self._answer(200, Content_Length=str(len(data)), ETag=_tag(data), Last_Modified=_TIME)

    def do_GET(self) -> None:
        where, query = self._where()
        if "list-type" in query or "/" not in where.strip("/"):
            return self._list(where.strip("/"), query)
        if (data := self.store.objects.get(where)) is None:
            return self._missing()
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
            if first >= len(data):
                return self._answer(416, b"<Error><Code>InvalidRange</Code></Error>")
            part = data[first : last + 1]
            return self._answer(206, part, Content_Range=f"bytes {first}-{last}/{len(data)}", ETag=_tag(data))
        self._answer(200, data, ETag=_tag(data), Last_Modified=_TIME)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        found, folders = [], set()
        for name, data in sorted(self.store.objects.items()):
            key = name.removeprefix(f"{bucket}/")
            if not name.startswith(f"{bucket}/{prefix}"):
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            found.append(
                f"<Contents><Key>{escape(quote(key))}</Key><Size>{len(data)}</Size><ETag>{escape(_tag(data))}</ETag>"
                "<LastModified>2026-11-23T10:00:00.000Z</LastModified></Contents>"
            )
        found += [
            f"<CommonPrefixes><Prefix>{escape(quote(one))}</Prefix></CommonPrefixes>"
            for one in sorted(folders)
        ]
        body = (
            f"<ListBucketResult><Name>{bucket}</Name><EncodingType>url</EncodingType>"
            f"<IsTruncated>false</IsTruncated><KeyCount>{len(found)}</KeyCount>{''.join(found)}</ListBucketResult>"
        )
        self._answer(200, body.encode(), Content_Type="application/xml")

    def do_PUT(self) -> None:
        where, query = self._where()
        data = self._body()
        if where in self.store.dropped:
            self.close_connection = True
            return
        try:
            if "partNumber" in query:
                self.store.parts[query["uploadId"]][int(query["partNumber"])] = data
            else:
                self.store.objects[where] = data
        except KeyError:
            return self._missing()
        self._answer(200, ETag=_tag(data))

    def do_POST(self) -> None:
        where, query = self._where()
        data = self._body()
        if "uploads" in query:
            name = f"upload-{len(self.store.parts)}"
            self.store.parts[name] = {}
            body = (
                f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>"
            )
            return self._answer(200, body.encode(), Content_Type="application/xml")
        if "uploadId" in query:
            try:
                parts = self.store.parts.pop(query["uploadId"])
                whole = b"".join(parts[number] for number in sorted(parts))
                self.store.objects[where] = whole
            except KeyError:
                return self._missing()
            tag = escape(_tag(whole))
            body = f"<CompleteMultipartUploadResult><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
            return self._answer(200, body.encode(), Content_Type="application/xml")
        for key in re.findall(rb"<Key>(.*?)</Key>", data):
            self.store.objects.pop(f"{where.strip('/')}/{key.decode()}", None)
        self._answer(200, b"<DeleteResult></DeleteResult>", Content_Type="application/xml")

    def do_DELETE(self) -> None:
        where, query = self._where()
        if "uploadId" in query:
            self.store.parts.pop(query["uploadId"], None)
        else:
            self.store.objects.pop(where, None)
        self._answer(204)


_TIME = "Mon, 23 Nov 2026 10:00:00 GMT"
