"""Fixtures of tests against a MinIO server of their own: `pytest_plugins = ("tests.support.store_fixtures",)`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from components.common import cache
from components.common.s3 import S3Store
from tests.support.minio import MinioServer, new_root, running


@pytest.fixture(scope="session")
def shared_minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """A server that nobody disturbs."""
    yield from running(tmp_path_factory.mktemp("minio"))


@pytest.fixture
def own_minio(tmp_path: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """A server of the test's own, to be killed and started again."""
    yield from running(tmp_path)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    cache.cache_root.cache_clear()
    yield tmp_path / "cache"
    cache.cache_root.cache_clear()


@pytest.fixture
def reach(monkeypatch):
    """Points this process's environment at a server."""

    def point(server: MinioServer, **keys: str) -> None:
        for name, value in server.environment(**keys).items():
            monkeypatch.setenv(name, value)
        for name in ("AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_REGION"):
            monkeypatch.delenv(name, raising=False)

    return point


@pytest.fixture
def root(shared_minio, own_cache, reach) -> str:
    """A store in a bucket of the test's own."""
    reach(shared_minio)
    return new_root()


@pytest.fixture
def store(root) -> S3Store:
    """The same, opened."""
    return S3Store(root)
