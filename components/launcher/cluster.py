"""A namespace of a cluster, in plain dictionaries.

The kubernetes client proves who we are. Its models are left out for what is read: they refuse objects of newer servers,
and its watch and log readers end at the first cut connection.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode

import urllib3
from kubernetes import client

from components.common.errors import RetryableError, RlhfError, UserError

Object = dict[str, Any]

# What a connection that breaks raises, at whatever layer.
BROKEN = (urllib3.exceptions.HTTPError, HTTPException, OSError)
CONNECT_SECONDS, READ_SECONDS = 5.0, 30.0
PATIENCE_SECONDS = 300.0  # how long the API server may be gone: an upgrade of a control plane takes minutes


@dataclass(frozen=True)
class Kind:
    """A kind of object: its API's path and its plural."""

    api: str
    plural: str


PYTORCHJOBS = Kind("/apis/kubeflow.org/v1", "pytorchjobs")
JOBS = Kind("/apis/batch/v1", "jobs")
PODS = Kind("/api/v1", "pods")
EVENTS = Kind("/api/v1", "events")
SECRETS = Kind("/api/v1", "secrets")
CONFIG_MAPS = Kind("/api/v1", "configmaps")
SERVICES = Kind("/api/v1", "services")
WORKFLOWS = Kind("/apis/argoproj.io/v1alpha1", "workflows")


class ApiError(Exception):
    """What the API server answered instead of what was asked for.

    Args:
        status: HTTP status.
        message: Its own words.
    """

    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(f"{status} {message}")


class Cluster:
    """A namespace of a cluster.

    Args:
        api: The kubernetes client's, for its address and credentials.
        namespace: The namespace.
    """

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self.api, self.namespace = api, namespace

    def path(self, kind: Kind, name: str = "") -> str:
        """Path of an object, or of all of a kind."""
        return f"{kind.api}/namespaces/{self.namespace}/{kind.plural}{f'/{name}' if name else ''}"

    def get(self, kind: Kind, name: str) -> Object | None:
        """An object, or None where there is none of that name."""
        try:
            return self.ask("GET", self.path(kind, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise refused(error, f"get {kind.plural}", self.namespace) from error

    def list(self, kind: Kind, labels: Mapping[str, str] | None = None, fields: str = "") -> list[Object]:
        """Objects of a kind with the given labels."""
        return list(self.list_with_version(kind, labels, fields)["items"])

    def list_with_version(self, kind: Kind, labels: Mapping[str, str] | None, fields: str = "") -> Object:
        """The same as the server's own list, which says from where a watch goes on."""
        try:
            return self.ask("GET", self.path(kind), selectors(labels, fields))
        except ApiError as error:
            raise refused(error, f"list {kind.plural}", self.namespace) from error

    def create(self, kind: Kind, body: Object) -> Object:
        """Makes an object.

        Raises:
            ApiError: The server refused: 409 where there is one of that name.
        """
        return self.ask("POST", self.path(kind), body=body)

    def patch(self, kind: Kind, name: str, body: Object) -> None:
        """Changes an object by a JSON merge patch; none of that name is fine."""
        self._change("PATCH", kind, name, body)

    def delete(self, kind: Kind, name: str) -> None:
        """Deletes an object, what it owns in the background; none of that name is fine."""
        self._change("DELETE", kind, name, {"propagationPolicy": "Background"})

    def _change(self, method: str, kind: Kind, name: str, body: Object) -> None:
        try:
            self.ask(method, self.path(kind, name), body=body)
        except ApiError as error:
            if error.status != 404:
                raise refused(error, f"{method.lower()} {kind.plural}", self.namespace) from error

    def ask(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Object | None = None) -> Object:
        """One request, repeated while the server is gone or too busy.

        Raises:
            ApiError: The server answered and refused.
            RetryableError: There was no answer for minutes.
        """
        for pause in pauses(PATIENCE_SECONDS):
            try:
                response = self.open(method, path, query, body, READ_SECONDS)
                return dict(json.loads(response.data))
            except ApiError as error:
                # What a failed webhook says is a 500, too, but only its caller knows how long to wait for it.
                if pause is None or "webhook" in error.message or error.status not in (429, 500, 502, 503, 504):
                    raise
            except BROKEN as error:
                if pause is None:
                    raise _unreachable(self.api.configuration.host, error) from error
            time.sleep(pause)
        raise AssertionError("the last pause is None")

    def open(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Object | None, read_seconds: float
    ) -> urllib3.BaseHTTPResponse:
        """One request, once; the body of the answer is yet to be read.

        Raises:
            ApiError: The status is not 2xx.
        """
        headers: dict[str, str] = {"Accept": "application/json, */*"}
        self.api.update_params_for_auth(headers, [], ["BearerToken"])
        if body is not None:
            kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
            headers["Content-Type"] = kind
        response: urllib3.BaseHTTPResponse = self.api.rest_client.pool_manager.request(
            method,
            f"{self.api.configuration.host}{path}{f'?{urlencode(query)}' if query else ''}",
            body=None if body is None else json.dumps(body),
            headers=headers,
            timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        if not 200 <= response.status < 300:
            raise ApiError(response.status, _message(response.data))
        return response


def selectors(labels: Mapping[str, str] | None, fields: str = "") -> dict[str, str]:
    """The query that picks objects by labels and fields."""
    query = {"labelSelector": ",".join(f"{name}={value}" for name, value in labels.items())} if labels else {}
    return {**query, **({"fieldSelector": fields} if fields else {})}


def pauses(patience: float, first: float = 0.25, longest: float = 2.0) -> Iterator[float | None]:
    """Seconds to wait between tries, doubled and jittered; None when there is no time for another.

    Args:
        patience: Seconds in all.
        first: The first pause.
        longest: What pauses grow to.
    """
    end, pause = time.monotonic() + patience, first
    while time.monotonic() < end:
        yield pause * random.uniform(0.7, 1.3)
        pause = min(longest, 2 * pause)
    yield None


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace")[:500]


def refused(error: ApiError, what: str, namespace: str) -> RlhfError:
    """What a person is told when the server refuses something."""
    if error.status == 404:
        return UserError(f"cannot {what}: the cluster has no such kind", where=f"namespace {namespace}")
    if error.status in (401, 403):
        return UserError(
            f"may not {what}: {error.message}",
            where=f"namespace {namespace}",
            hint="give the launcher's service account, or yourself, the role rlhf-launcher",
        )
    return RetryableError(f"cannot {what}: {error}", where=f"namespace {namespace}")


def _unreachable(host: str, error: BaseException) -> RetryableError:
    return RetryableError(
        f"the API server has not answered for {PATIENCE_SECONDS:.0f} s: {error}",
        where=host,
        hint="the job goes on without us: the same command adopts it",
    )
