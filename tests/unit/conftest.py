"""Fixtures of the unit tests."""

import pytest

from tests.support.api_server import ApiServer
from tests.support.report_run import make_run


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An API server of Kubernetes that KUBECONFIG leads to. Modules lay over it what their tests need besides."""
    made = ApiServer()
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(tmp_path)))
    yield made
    made.close()


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run that ended well, as the report finds it in its store."""
    return make_run(tmp_path_factory.mktemp("finished"))
