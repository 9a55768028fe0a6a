"""Fixtures of the unit tests. Each imports what it needs, so that no module waits for what others need."""

import pytest


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An API server of Kubernetes that KUBECONFIG leads to. Modules lay over it what their tests need besides."""
    from tests.support.api_server import ApiServer

    made = ApiServer()
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig(tmp_path)))
    yield made
    made.close()


@pytest.fixture
def step(tmp_path, monkeypatch):
    """Makes jobs of an sft step. Their launcher is in a hurry, as nobody else is on the server."""
    from components.launcher import acquire, follow, waits
    from components.launcher.config import LauncherConfig
    from components.launcher.job import stage_job
    from tests.support.launched import KEY

    monkeypatch.setattr(follow, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(acquire, "OPERATOR_SECONDS", 2.0)
    monkeypatch.setattr(waits, "OPERATOR_SECONDS", 1.0)
    monkeypatch.setattr(waits, "HOPE_SECONDS", 0.3)

    def make(run="run-1", key=KEY, **settings):
        config = LauncherConfig.model_validate({"retries": 0, "grace_period": 1, **settings})
        root = str(tmp_path / "store")
        output = f"{root}/artifacts/sft/{key}"
        return stage_job(run, "sft", key, ["--output", output], root, config, cluster=True, output=output)

    return make


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A run that ended well, as the report finds it in its store."""
    from tests.support.report_run import make_run

    return make_run(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def pair(tmp_path):
    """A base of four tensors, an adapter on one of them, and a configuration: a folder to be merged."""
    from tests.support.little_pair import make_little_pair

    return make_little_pair(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer):
    """A store with a base, a policy and a reward model. Modules that score pairs make one with their own."""
    from tests.support.trained import make_trained

    pairs = [{"prompt": "What did Bada the cow say?", "chosen": "moo", "rejected": "woof"}]
    return make_trained(tmp_path_factory.mktemp("store"), tokenizer, pairs)


@pytest.fixture
def prompts(tmp_path):
    """A file of prompts for `rlhf generate`."""
    from tests.support.generating import QUESTIONS, write

    return write(tmp_path / "prompts.jsonl", [{"prompt": text, "id": i} for i, text in enumerate(QUESTIONS)])


@pytest.fixture
def world(tmp_path, tokenizer):
    """A model folder with a tokenizer, the toy world's sources, and a function that runs the data step."""
    from tests.support.data_step import make_world

    return make_world(tmp_path, tokenizer)
