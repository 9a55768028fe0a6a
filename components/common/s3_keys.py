"""Keys to a store in a file, as AWS tools have them, that may be replaced while a process works."""

from __future__ import annotations

import configparser
import os
import threading

from minio.credentials import Credentials
from minio.credentials.providers import Provider

from components.common.errors import UserError

VARIABLE = "AWS_SHARED_CREDENTIALS_FILE"
_PROFILE = "default"


def keys_text(access_key: str, secret_key: str, session_token: str) -> str:
    """What is in such a file."""
    return (
        f"[{_PROFILE}]\n"
        f"aws_access_key_id = {access_key}\n"
        f"aws_secret_access_key = {secret_key}\n"
        f"aws_session_token = {session_token}\n"
    )


class FileKeys(Provider):  # type: ignore[misc]
    """The keys in a file, as they are now. A Secret that is mounted is replaced as a whole, so they fit together.

    Args:
        file: Its path.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._stamp = (0, 0)
        self._keys: Credentials | None = None

    def retrieve(self) -> Credentials:
        """The keys; the client asks before each request.

        Raises:
            UserError: There is no such file, or there are no keys in it.
        """
        with self._lock:
            try:
                found = os.stat(self._file)
                stamp = (found.st_ino, found.st_mtime_ns)
                if self._keys is None or stamp != self._stamp:
                    self._keys, self._stamp = self._read(), stamp
            except OSError as error:
                raise self._wrong(f"cannot be read: {error.strerror}") from error
            return self._keys

    def _read(self) -> Credentials:
        parser = configparser.ConfigParser(interpolation=None)
        try:
            with open(self._file, encoding="utf-8") as file:
                parser.read_file(file)
            section = parser[_PROFILE]
            token = section.get("aws_session_token") or None
            return Credentials(section["aws_access_key_id"], section["aws_secret_access_key"], token)
        except (configparser.Error, KeyError, ValueError) as error:
            raise self._wrong(f"has no keys in its profile {_PROFILE}") from error

    def _wrong(self, what: str) -> UserError:
        return UserError(what, where=f"{VARIABLE}={self._file}", hint="see docs/store.md")
