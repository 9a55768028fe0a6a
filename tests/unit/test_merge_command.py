"""The merge step as a command, and the process that computes for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from components.common.entry import stage_main
from components.common.errors import RlhfError
from components.merge.__main__ import load_run
from components.merge.casts import BLOCK
from components.merge.config import SPEC
from components.merge.engine import Engine
from tests.support.commands import ROOT
from tests.support.little_pair import (
    WEIGHTS,
    A,
    B,
    Change,
    Q,
    adapter,
    arguments,
    base,
    config,
    cut,
    write,
)


def test_merge_without_any_change(pair: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The pair that the refusals start from is sound; a plain adapter is merged with a warning."""
    assert stage_main(SPEC, load_run, arguments(pair)) == 0
    assert "warning: the adapter is a plain folder" in capsys.readouterr().out
    before, factors = load_file(pair / WEIGHTS), load_file(pair / "adapter" / "adapter_model.safetensors")
    (merged,) = (load_file(path) for path in (pair / "store").rglob("model.safetensors"))
    np.testing.assert_allclose(merged[f"{Q}.weight"], before[f"{Q}.weight"] + 2 * factors[B] @ factors[A], rtol=1e-6)


def test_rows_that_are_longer_than_a_block(pair: Path) -> None:
    """A block is whole rows, one at least."""
    columns = BLOCK + 3
    draw = np.random.default_rng(4)
    weight = draw.standard_normal((2, columns)).astype(np.float16)
    factors = {A: draw.standard_normal((2, columns), np.float32), B: draw.standard_normal((2, 2), np.float32)}
    base({f"{Q}.weight": weight})(pair)
    adapter(dict(factors))(pair)
    assert stage_main(SPEC, load_run, arguments(pair)) == 0
    (merged,) = (load_file(path)[f"{Q}.weight"] for path in (pair / "store").rglob("model.safetensors"))
    exact = weight.astype(np.float64) + 2 * factors[B].astype(np.float64) @ factors[A]
    np.testing.assert_allclose(merged, exact, rtol=2**-11 * 1.001, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (config(), 0, "finished: "),
        (
            write("run.yaml", b"merge: {workers: 0, dtyp: float16}"),
            2,
            "merge.dtyp: unknown field (did you mean dtype?)",
        ),
        (cut(WEIGHTS, 700), 3, "it has 700 bytes"),
    ],
    ids=["0", "2", "3"],
)
def test_command_line(change: Change, code: int, text: str, pair: Path) -> None:
    """A process of its own from another directory; a second call finds the result there."""
    change(pair)
    command = [sys.executable, "-m", "components.merge", *arguments(pair)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for expected in (text, "finished before: " if code == 0 else text):
        done = subprocess.run(command, cwd=pair, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1 if code else 0)
        assert expected in done.stdout + done.stderr


def test_nothing_heavy_is_imported() -> None:
    """The step runs in an image without torch; only the computing process loads numpy, and little else."""
    for module, banned in (("components.merge.stage", {"numpy"}), ("components.merge.worker", {"pydantic", "yaml"})):
        code = f"import sys, {module}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        imported = set(done.stdout.split())
        assert module in imported
        assert not imported & (banned | {"torch", "transformers", "peft"})


def test_computing_process_that_dies_is_an_error_and_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RlhfError, match="ended early \\(exit code 1\\)"), Engine(1) as engine:
        engine.check_finite([])


def test_an_error_ends_the_computing_process() -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    def interrupted() -> None:
        with Engine(1):
            assert children() > before
            raise KeyboardInterrupt

    before = children()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert children() == before
