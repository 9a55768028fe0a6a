"""`python -m components.launcher`: what is missing is said in one line."""

import pytest

from components.launcher.__main__ import main


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("RLHF_STORE", "RLHF_NAMESPACE", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RLHF_LAUNCHER", "local")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cancel", "r1"], "RLHF_STORE: is not set"),
        (["run", "merge", "--config", "s/runs/r/config.yaml", "--input", "base=x"], "--input adapter: is missing"),
        (["run", "data", "--config", "s/runs/r/config.yaml"], "--input model: is missing"),
    ],
)
def test_what_is_missing_is_said_in_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {words}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("arguments", [["run", "stf"], ["print", "report"]])
def test_a_stage_that_is_none_is_refused_with_those_there_are(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--config", "s/runs/r/config.yaml"])
    assert stopped.value.code == 2
    assert "choose from" in capsys.readouterr().err
