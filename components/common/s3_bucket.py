"""A bucket through the minio client: the requests we make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import urllib3
from minio import Minio
from minio.datatypes import Part
from minio.deleteobjects import DeleteObject

from components.common.errors import UserError
from components.common.s3_access import connect
from components.common.s3_errors import FAILURES, code_of
from components.common.s3_requests import Requests, unless

PIECE = 1 << 20  # bytes of an answer that are in memory at once


@dataclass(frozen=True)
class Entry:
    """An object of a listing: its key, its size in bytes and its entity tag."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True)
class Upload:
    """An upload in parts that was begun: its id, and the entity tags of the parts that are there, by number."""

    key: str
    id: str
    parts: dict[int, str]


class Bucket(Requests):
    """A bucket. Every method raises an error of ours, `RetryableError` if the store stays away."""

    def get(self, key: str) -> bytes | None:
        """A small object's content, None if it is not there."""
        answer = self.ask(key, lambda s3: self.or_none(s3, key, lambda: s3._execute("GET", self.name, key).data))
        return None if answer is None else bytes(answer)

    def head(self, key: str) -> Entry | None:
        """What is known of an object, None if it is not there."""
        return self.ask(key, lambda s3: self.or_none(s3, key, lambda: self._first_byte(s3, key)))

    def _first_byte(self, s3: Minio, key: str) -> Entry:
        """What the answer to a request for one byte says. A HEAD request's failure would not say what is wrong."""
        try:
            answer = s3._execute("GET", self.name, key, headers={"Range": "bytes=0-0"})
        except FAILURES as error:
            if code_of(error) == "InvalidRange":
                return Entry(key, 0, "")
            raise
        size = int(answer.headers["Content-Range"].rpartition("/")[2])
        return Entry(key, size, answer.headers["ETag"].strip('"'))

    def put(self, key: str, content: bytes, *, only_new: bool = False) -> bool:
        """Writes an object in one request.

        Args:
            key: Its key.
            content: Its content.
            only_new: Leave an object alone that is there already.

        Returns:
            Whether it was written.
        """
        headers = {"Content-Type": "application/octet-stream", **({"If-None-Match": "*"} if only_new else {})}

        def write(s3: Minio) -> bool:
            sent = unless("PreconditionFailed", lambda: s3._put_object(self.name, key, content, dict(headers)))
            return sent is not None

        return self.ask(key, write)

    def entries(self, prefix: str) -> list[Entry]:
        """All objects whose keys begin so, sorted."""

        def listed(s3: Minio) -> list[Entry]:
            found = s3.list_objects(self.name, prefix=prefix, recursive=True)
            return [Entry(item.object_name, item.size, item.etag.strip('"')) for item in found]

        return sorted(self.ask(prefix, listed), key=lambda entry: entry.key)

    def names(self, folder: str) -> list[str]:
        """Names of objects and folders directly below a folder, sorted."""
        prefix = f"{folder}/" if folder else ""

        def listed(s3: Minio) -> list[str]:
            found = s3.list_objects(self.name, prefix=prefix, recursive=False)
            return [item.object_name.removeprefix(prefix).rstrip("/") for item in found]

        return sorted(filter(None, self.ask(prefix, listed)))

    def remove(self, keys: Iterable[str]) -> None:
        """Deletes objects; those that are not there are fine."""
        wanted = list(keys)
        for start in range(0, len(wanted), 1000):
            self._remove(wanted[start : start + 1000])

    def _remove(self, keys: list[str]) -> None:
        batch = [DeleteObject(key) for key in keys]
        result = self.ask(keys[0], lambda s3: s3._delete_objects(self.name, batch, quiet=True))
        for error in result.error_list:
            what = f"cannot be deleted: {error.code} {error.message}"
            raise UserError(what, where=self.uri(error.name or keys[0]), hint="check the policy of the access key")

    def read_range(self, key: str, start: int, length: int) -> Iterator[bytes]:
        """Yields a range of an object, piece by piece; after a break it goes on where it was."""
        answer: Any = None
        at = start

        def rest(s3: Minio) -> Any:
            headers = {"Range": f"bytes={at}-{start + length - 1}"}
            return s3._execute("GET", self.name, key, headers=headers, preload_content=False)

        def piece(_: Minio) -> bytes:
            nonlocal answer
            try:
                if answer is None:
                    answer = rest(connect(self.access))
                found: bytes = answer.read(min(PIECE, start + length - at))
                if not found:
                    raise urllib3.exceptions.ProtocolError("the answer ended early")
            except FAILURES:
                drop()
                raise
            return found

        def drop() -> None:  # its connection cannot be used again
            nonlocal answer
            if answer is not None:
                answer.close()
            answer = None

        try:
            while at < start + length:
                found = self.ask(key, piece)
                at += len(found)
                yield found
            if answer is not None:
                answer.release_conn()
                answer = None
        finally:
            drop()

    def begun_upload(self, key: str) -> Upload | None:
        """The newest upload in parts of this key that was begun and not ended, if we may see it."""

        def find(s3: Minio) -> Upload | None:
            # No policy allows this for a part of a bucket.
            found = unless("AccessDenied", lambda: s3._list_multipart_uploads(self.name, prefix=key).uploads) or []
            begun = max(((one.initiated_time, one.upload_id) for one in found if one.object_name == key), default=None)
            if begun is None:
                return None
            parts = unless("NoSuchUpload", lambda: _parts(s3, self.name, key, begun[1]))
            return None if parts is None else Upload(key, begun[1], parts)

        return self.ask(key, find)

    def new_upload(self, key: str) -> Upload:
        """Begins an upload in parts."""
        return Upload(key, str(self.ask(key, lambda s3: s3._create_multipart_upload(self.name, key, {}))), {})

    def put_part(self, upload: Upload, number: int, content: bytes) -> str:
        """Sends a part; returns its entity tag, empty if the upload was ended by somebody."""

        def send(s3: Minio) -> str:
            return str(s3._upload_part(self.name, upload.key, content, None, upload.id, number))

        return self.ask(upload.key, lambda s3: unless("NoSuchUpload", lambda: send(s3)) or "")

    def complete(self, upload: Upload, tags: list[str]) -> bool:
        """Makes the parts, whose entity tags are given in order, an object; False if the upload was ended before."""
        parts = [Part(number, tag) for number, tag in enumerate(tags, 1)]

        def end(s3: Minio) -> bool:
            s3._complete_multipart_upload(self.name, upload.key, upload.id, parts)
            return True

        return self.ask(upload.key, lambda s3: unless("NoSuchUpload", lambda: end(s3)) or False)

    def abort(self, upload: Upload) -> None:
        """Throws the parts of an upload away."""

        def throw(s3: Minio) -> None:
            unless("NoSuchUpload", lambda: s3._abort_multipart_upload(self.name, upload.key, upload.id))

        self.ask(upload.key, throw)

    def create(self) -> bool:
        """Makes the bucket; returns whether it was not there before."""

        def make(s3: Minio) -> bool:
            if s3.bucket_exists(self.name):
                return False
            s3.make_bucket(self.name)
            return True

        return self.ask("", make)


def _parts(s3: Minio, bucket: str, key: str, upload_id: str) -> dict[int, str]:
    """Entity tags of the parts that are there, by number."""
    found: dict[int, str] = {}
    marker = None
    while True:
        page = s3._list_parts(bucket, key, upload_id, part_number_marker=marker)
        found |= {part.part_number: part.etag.strip('"') for part in page.parts}
        if not page.is_truncated:
            return found
        marker = str(page.next_part_number_marker)
