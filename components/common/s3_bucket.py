"""A bucket through the minio client: the requests we make, made again while the store is away."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.datatypes import Part
from minio.deleteobjects import DeleteObject

from components.common.errors import UserError
from components.common.logs import say
from components.common.s3_errors import FAILURES, Fault, code_of, fault_of

CONNECTIONS = 16
FIRST_SECONDS = 30.0  # how long a store is waited for that has not answered once: its address may be wrong
OUTAGE_SECONDS = 240.0  # how long one is waited for that was there before
QUIET_SECONDS = 3.0  # an outage that is shorter is not worth a line
PIECE = 1 << 20  # bytes of an answer that are in memory at once

T = TypeVar("T")


@dataclass(frozen=True)
class Access:
    """How to reach an S3 service.

    Attributes:
        url: Its address.
        region: Its region.
        access_key: Who asks.
        secret_key: What proves it.
        session_token: Goes with temporary keys.
        ca_file: Certificates to trust instead of the public ones.
    """

    url: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    ca_file: str = ""

    @staticmethod
    def from_environment() -> Access:
        """Reads the variables that all AWS tools read.

        Raises:
            UserError: A key is missing, the address is none, or there is no such file of certificates.
        """
        read = os.environ.get
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            if not read(name):
                raise UserError("is not set", where=name, hint="a store on S3 needs it; see docs/store.md")
        region = read("AWS_REGION") or "us-east-1"
        url = read("AWS_ENDPOINT_URL") or f"https://s3.{region}.amazonaws.com"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise UserError(f"is no address: {url}", where="AWS_ENDPOINT_URL", hint="write http://HOST:PORT")
        ca_file = read("AWS_CA_BUNDLE") or ""
        if ca_file and not os.path.isfile(ca_file):
            raise UserError("no such file", where=f"AWS_CA_BUNDLE={ca_file}", hint="give a PEM file of certificates")
        keys = (str(read("AWS_ACCESS_KEY_ID")), str(read("AWS_SECRET_ACCESS_KEY")), read("AWS_SESSION_TOKEN") or "")
        return Access(url.rstrip("/"), region, *keys, ca_file)

    def http(self) -> urllib3.PoolManager:
        """A pool of connections. Nothing is repeated in it: that is our business, and takes longer than it would."""
        return urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=10, read=60),
            maxsize=CONNECTIONS,
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=self.ca_file or certifi.where(),
        )


@lru_cache(maxsize=8)
def connect(access: Access) -> Minio:
    """A client; its connections are shared by all that ask for the same access."""
    parts = urlsplit(access.url)
    return Minio(
        parts.netloc,
        access_key=access.access_key,
        secret_key=access.secret_key,
        session_token=access.session_token or None,
        secure=parts.scheme == "https",
        region=access.region,
        http_client=access.http(),
    )


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


@dataclass
class _Outage:
    """What the threads that use a bucket know together of its being away."""

    answered: bool = False
    told: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Bucket:
    """A bucket. Every method raises an error of ours, `RetryableError` if the store stays away.

    Attributes:
        name: Its name.
        access: How to reach it.
        patience: Seconds to wait for a store that was there before.
        stop: Set, it ends all waiting.
    """

    name: str
    access: Access
    patience: float = OUTAGE_SECONDS
    stop: threading.Event = field(default_factory=threading.Event, compare=False)
    _outage: _Outage = field(default_factory=_Outage, compare=False)

    def stoppable(self, patience: float | None = None) -> Bucket:
        """The same bucket with a `stop` of its own, and perhaps another patience."""
        return replace(self, stop=threading.Event(), patience=self.patience if patience is None else patience)

    def uri(self, key: str) -> str:
        """What a person calls an object."""
        return f"s3://{self.name}/{key}"

    def get(self, key: str) -> bytes | None:
        """A small object's content, None if it is not there."""
        answer = self._ask(key, lambda s3: self._or_none(s3, key, lambda: s3._execute("GET", self.name, key).data))
        return None if answer is None else bytes(answer)

    def head(self, key: str) -> Entry | None:
        """What is known of an object, None if it is not there."""
        found: Entry | None = self._ask(key, lambda s3: self._or_none(s3, key, lambda: self._first_byte(s3, key)))
        return found

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
            try:
                s3._put_object(self.name, key, content, dict(headers))
            except FAILURES as error:
                if code_of(error) == "PreconditionFailed":
                    return False
                raise
            return True

        return bool(self._ask(key, write))

    def entries(self, prefix: str) -> list[Entry]:
        """All objects whose keys begin so, sorted."""

        def listed(s3: Minio) -> list[Entry]:
            found = s3.list_objects(self.name, prefix=prefix, recursive=True)
            return [Entry(item.object_name, item.size, item.etag.strip('"')) for item in found]

        return sorted(self._ask(prefix, listed), key=lambda entry: entry.key)

    def names(self, folder: str) -> list[str]:
        """Names of objects and folders directly below a folder, sorted."""
        prefix = f"{folder}/" if folder else ""

        def listed(s3: Minio) -> list[str]:
            found = s3.list_objects(self.name, prefix=prefix, recursive=False)
            return [item.object_name.removeprefix(prefix).rstrip("/") for item in found]

        return sorted(filter(None, self._ask(prefix, listed)))

    def remove(self, keys: Iterable[str]) -> None:
        """Deletes objects; those that are not there are fine."""
        wanted = list(keys)
        for start in range(0, len(wanted), 1000):
            self._remove(wanted[start : start + 1000])

    def _remove(self, keys: list[str]) -> None:
        batch = [DeleteObject(key) for key in keys]
        result = self._ask(keys[0], lambda s3: s3._delete_objects(self.name, batch, quiet=True))
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
                found = self._ask(key, piece)
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
            try:
                found = s3._list_multipart_uploads(self.name, prefix=key).uploads
            except FAILURES as error:
                if code_of(error) == "AccessDenied":  # no policy allows that for a part of a bucket
                    return None
                raise
            ids = [(item.initiated_time, item.upload_id) for item in found if item.object_name == key]
            return Upload(key, max(ids)[1], _parts(s3, self.name, key, max(ids)[1])) if ids else None

        found: Upload | None = self._ask(key, find, missing=True)
        return found

    def new_upload(self, key: str) -> Upload:
        """Begins an upload in parts."""
        return Upload(key, str(self._ask(key, lambda s3: s3._create_multipart_upload(self.name, key, {}))), {})

    def put_part(self, upload: Upload, number: int, content: bytes) -> str:
        """Sends a part; returns its entity tag."""
        send = lambda s3: s3._upload_part(self.name, upload.key, content, None, upload.id, number)  # noqa: E731
        return str(self._ask(upload.key, send))

    def complete(self, upload: Upload, tags: list[str]) -> None:
        """Makes the parts, whose entity tags are given in order, an object."""
        parts = [Part(number, tag) for number, tag in enumerate(tags, 1)]
        self._ask(upload.key, lambda s3: s3._complete_multipart_upload(self.name, upload.key, upload.id, parts))

    def abort(self, upload: Upload) -> None:
        """Throws the parts of an upload away."""
        self._ask(
            upload.key, lambda s3: s3._abort_multipart_upload(self.name, upload.key, upload.id) or True, missing=True
        )

    def create(self) -> bool:
        """Makes the bucket; returns whether it was not there before."""

        def make(s3: Minio) -> bool:
            if s3.bucket_exists(self.name):
                return False
            s3.make_bucket(self.name)
            return True

        return bool(self._ask("", make))

    def _or_none(self, s3: Minio, key: str, request: Callable[[], T]) -> T | None:
        """Makes a request about an object; None if there is no such object."""
        try:
            return request()
        except FAILURES as error:
            if code_of(error) == "NoSuchKey":
                return None
            if code_of(error) != "AccessDenied":
                raise
            # With keys for a part of a bucket that is said of what is not there, too. A listing tells more.
            listed = s3.list_objects(self.name, prefix=key, recursive=True)
            if any(item.object_name == key for item in listed):
                raise
            return None

    def _ask(self, key: str, request: Callable[[Minio], T], *, missing: bool = False) -> Any:
        """Makes a request until it succeeds, fails for good, or the store has been away for too long.

        Args:
            key: What it is about.
            request: What to ask the client.
            missing: Whether an object that is not there is an answer: None.
        """
        began, attempt = 0.0, 0
        while True:
            try:
                answer = request(connect(self.access))
            except FAILURES as error:
                if missing and code_of(error) in ("NoSuchKey", "NoSuchUpload"):
                    self._back()
                    return None
                fault = fault_of(error, self.uri(key), self.access.url)
                began = began or time.monotonic()
                left = began + self._budget() - time.monotonic()
                if not fault.passing or left <= 0 or self.stop.is_set():
                    raise fault.error from error
                self._tell(fault, time.monotonic() - began, left)
                attempt += 1
                self.stop.wait(random.uniform(0.05, min(10.0, 0.1 * 2**attempt)))
            else:
                self._back()
                return answer

    def _budget(self) -> float:
        return self.patience if self._outage.answered else min(FIRST_SECONDS, self.patience)

    def _tell(self, fault: Fault, waited: float, left: float) -> None:
        with self._outage.lock:
            tell = not self._outage.told and waited > QUIET_SECONDS
            self._outage.told = self._outage.told or tell
        if tell:
            say("store", f"{fault.error.what}; trying for {left:.0f} s more")

    def _back(self) -> None:
        self._outage.answered = True
        if self._outage.told:
            with self._outage.lock:
                told, self._outage.told = self._outage.told, False
            if told:
                say("store", "answers again")


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
