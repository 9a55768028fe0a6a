"""Fixtures of the unit tests."""

import pytest

from tests.support.api_server import ApiServer


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An API server of Kubernetes that KUBECONFIG leads to. Modules lay over it what their tests need besides."""
    made = ApiServer()
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(tmp_path)))
    yield made
    made.close()
