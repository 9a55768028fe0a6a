"""Temporary keys that open only a part of a store, for a process that should not be able to touch the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from minio.credentials import AssumeRoleProvider
from minio.credentials import Credentials as OwnKeys

from components.common.errors import RetryableError, UserError
from components.common.s3_access import Access
from components.common.s3_errors import FAILURES, fault_of
from components.common.s3_keys import keys_text
from components.common.store import is_s3, split_s3

SHORTEST, LONGEST = 15 * 60, 7 * 24 * 3600  # seconds, by the API
_AWAY = re.compile(r"status code (50[0234]|429)")  # 501 says that there is no such service
# The store's own folders: an artifact's and its work's, which end alike, and a run's.
_FOLDER = re.compile(r"(?:.*/)?(?:(?:artifacts|work)/(?P<keyed>[\w-]+/[\w.-]+)|(?P<run>runs/[^/]+))")
_NOWHERE = "artifacts/none/none"  # what keys are asked for to see whether there are any
_UPLOAD = ["s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]


@dataclass(frozen=True)
class Credentials:
    """Temporary keys.

    Attributes:
        access_key: Who asks.
        secret_key: What proves it.
        session_token: Goes with every request.
        expires: When they end.
    """

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires: datetime

    def text(self) -> str:
        """The content of the file that gives them to a process, by AWS_SHARED_CREDENTIALS_FILE."""
        return keys_text(self.access_key, self.secret_key, self.session_token)


def session_credentials(root: str, read: Iterable[str], write: Iterable[str], seconds: int) -> Credentials | None:
    """Asks the store for keys that read and write only what is named.

    What may be written may be read, too. The keys can do no more than those they are asked with, which must not be
    temporary themselves.

    Args:
        root: The store. A directory has no keys.
        read: Folders and files, as URIs or as paths below the root.
        write: Folders, the same.
        seconds: How long they are good for; brought between a quarter of an hour and seven days.

    Returns:
        The keys, or None where the store gives none of this kind.

    Raises:
        UserError: The store gives such keys, but refuses to give these.
        RetryableError: The store does not answer.
    """
    access = Access.from_environment() if is_s3(root) else None
    own = access.keys().retrieve() if access else None
    if access is None or own is None or own.session_token:
        return None
    policy = compact(session_policy(root, read, write))
    seconds = max(SHORTEST, min(LONGEST, seconds))
    try:
        given = _assume(access, own, policy, seconds)
        if given is None and _assume(access, own, compact(session_policy(root, [_NOWHERE], [])), SHORTEST):
            # Not for lack of the service: keys that can do everything must not take the place of these.
            raise UserError(
                f"refuses the policy of temporary keys for a stage's folders, which has {len(policy)} characters",
                where=access.url,
                hint=f"MinIO takes 2048: shorten the store's prefix, {root}, or the URIs of the stage's inputs",
            )
    except FAILURES as error:
        raise fault_of(error, root, access.url).error from error
    return given


def compact(policy: dict[str, Any]) -> str:
    """A policy as it is sent, and as MinIO measures it."""
    return json.dumps(policy, separators=(",", ":"))


def _assume(access: Access, own: OwnKeys, policy: str, seconds: int) -> Credentials | None:
    """Asks for keys with a policy; None if the store refuses."""
    provider = AssumeRoleProvider(
        sts_endpoint=access.url,
        access_key=own.access_key,
        secret_key=own.secret_key,
        duration_seconds=seconds,
        policy=policy,
        region=access.region,
        http_client=access.http(),
    )
    try:
        given = provider.retrieve()
    except ValueError as error:  # any answer but keys, with its status in the text
        if _AWAY.search(str(error)):
            raise RetryableError("gives no temporary keys now", where=access.url, hint="try again") from error
        return None
    # The client gives a time of day in UTC that does not say so.
    expires = given.expiration.replace(tzinfo=UTC)
    return Credentials(given.access_key, given.secret_key, given.session_token, expires)


def session_policy(root: str, read: Iterable[str], write: Iterable[str]) -> dict[str, Any]:
    """The policy of such keys, as AWS writes policies.

    It is kept short, since services take 2048 characters of it and a store's prefix may be long: nothing is named twice
    for the same right, and the store's own folders, which have nothing but what is below them, are named once.
    """
    written = [_place(root, uri) for uri in write]
    seen = [place for place in (_place(root, uri) for uri in read) if place not in written]
    statements = [_objects(["s3:GetObject"], seen), _objects(["s3:GetObject", *_UPLOAD], written)]
    places = [*seen, *written]
    for bucket in sorted({bucket for bucket, _ in places}):
        inside = dict.fromkeys(name for other, path in places if other == bucket for name in _listed(path))
        statements.append(
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket"],
                "Resource": [f"arn:aws:s3:::{bucket}"],
                "Condition": {"StringLike": {"s3:prefix": list(inside)}},
            }
        )
    return {"Version": "2012-10-17", "Statement": [statement for statement in statements if statement["Resource"]]}


def _objects(actions: list[str], places: list[tuple[str, str]]) -> dict[str, Any]:
    resources = [f"arn:aws:s3:::{bucket}/{name}" for bucket, path in places for name in _names(path)]
    return {"Effect": "Allow", "Action": actions, "Resource": resources}


def _names(path: str) -> list[str]:
    """What a place stands for. The store's own folders are known; anything else may be a file or a folder."""
    return [f"{path}/*"] if _FOLDER.fullmatch(path) else [path, f"{path}/*"]


def _listed(path: str) -> list[str]:
    """The same, where only names are told: a folder's key or a run's id says enough without what is above it."""
    found = _FOLDER.fullmatch(path)
    name = found and (found["keyed"] or found["run"])
    return [f"*/{name}/*"] if name and name != path else _names(path)


def _place(root: str, uri: str) -> tuple[str, str]:
    """Bucket and path of a URI or a path below the root."""
    bucket, path = split_s3(uri if is_s3(uri) else f"{root.rstrip('/')}/{uri}")
    if not path:
        raise UserError("a whole bucket would be opened", where=uri, hint="name a folder in it")
    return bucket.removeprefix("s3://"), path
