"""Running our commands as users do: as processes, or within this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner, Result

ROOT = Path(__file__).parents[2]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with the tree on the import path and one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **changes}


def python(
    *arguments: str, cwd: Path | None = None, timeout: float = 600, **changes: str
) -> subprocess.CompletedProcess:
    """Runs this interpreter; stdout and stderr are text."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd or ROOT,
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def rlhf(*arguments: str, **options) -> subprocess.CompletedProcess:
    """Runs `rlhf`."""
    return python("-m", "pipelines.cli", *arguments, **options)


def invoke_rlhf(*arguments: str) -> Result:
    """Runs `rlhf` within this process, so that it sees what a test has put in the place of something."""
    from pipelines.cli import main

    return CliRunner().invoke(main, arguments)


def kfp(*arguments: str, **options) -> subprocess.CompletedProcess:
    """Runs `kfp` as our distribution installs it."""
    return python("-m", "pipelines.cli.kfp_command", *arguments, **options)


def left_behind(store: Path) -> list[Path]:
    """Files in a store, but for what a stage says of itself in its work folder: its log and its signs of life."""
    own = {"log.txt", "heartbeat.json"}
    found = (path for path in store.rglob("*") if path.is_file())
    return [path for path in found if not (path.relative_to(store).parts[0] == "work" and path.name in own)]
