"""Requests about a bucket's objects, made again while the store is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

from minio import Minio

from components.common.s3_access import Access, connect
from components.common.s3_errors import FAILURES, OVER, Fault, code_of, fault_of
from components.common.s3_retry import OUTAGE_SECONDS, Outages, until_answered

T = TypeVar("T")


@dataclass(frozen=True)
class Requests:
    """Requests about one bucket, and how long to go on with them.

    Attributes:
        name: The bucket's name.
        access: How to reach it.
        patience: Seconds to wait for a store that was there before.
        stop: Set, it ends all waiting.
    """

    name: str
    access: Access
    patience: float = OUTAGE_SECONDS
    stop: threading.Event = field(default_factory=threading.Event, compare=False)
    outages: Outages = field(default_factory=Outages, compare=False)

    def stoppable(self, patience: float | None = None) -> Self:
        """The same bucket with a `stop` of its own, and perhaps another patience."""
        return replace(self, stop=threading.Event(), patience=self.patience if patience is None else patience)

    def uri(self, key: str) -> str:
        """What a person calls an object."""
        return f"s3://{self.name}/{key}"

    def or_none(self, s3: Minio, key: str, request: Callable[[], T]) -> T | None:
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

    def ask(self, key: str, request: Callable[[Minio], T]) -> T:
        """Makes a request about an object, as often as need be."""
        return until_answered(
            lambda: request(connect(self.access)),
            lambda error: self._fault(error, key),
            self.outages,
            self.patience,
            self.stop,
        )

    def _fault(self, error: BaseException, key: str) -> Fault:
        """Reads a failure. Keys whose time is over are waited for where somebody renews their file."""
        fault = fault_of(error, self.uri(key), self.access.url)
        renewed = bool(self.access.keys_file) and code_of(error) in OVER
        return replace(fault, passing=True) if renewed else fault


def unless(code: str, request: Callable[[], T]) -> T | None:
    """Makes a request; None if the store refuses it with a code."""
    try:
        return request()
    except FAILURES as error:
        if code_of(error) == code:
            return None
        raise
