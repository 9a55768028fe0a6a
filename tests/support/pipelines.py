"""Pipelines for tests of the command line: each file below is written where a test asks for it."""

from __future__ import annotations

from pathlib import Path

SLEEPING = '''
"""One step that starts a child and sleeps."""
from kfp import dsl


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def sleepy(folder: str):
    import os, pathlib, subprocess, time

    child = subprocess.Popen(["sleep", "600"])
    pathlib.Path(folder, "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


@dsl.pipeline(name="sleeping")
def sleeping(preset: str = "", config: str = "", model: str = "", data: str = ""):
    sleepy(folder=data)
'''

RETRYING = '''
"""One step that fails with a user's error and would be retried."""
from kfp import dsl


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def failing(folder: str):
    import os, pathlib

    from components.common.errors import UserError
    from components.common.store import open_store
    from components.launcher.record import Run

    with Run(open_store(os.environ["RLHF_STORE"]), os.environ["RLHF_RUN_ID"]).recording("failing", "failing"):
        with pathlib.Path(folder, "attempts").open("a") as file:
            file.write("x")
        raise UserError("is broken", where="row 3", hint="mend it")


@dsl.pipeline(name="retrying")
def retrying(preset: str = "", config: str = "", model: str = "", data: str = ""):
    failing(folder=data).set_retry(2, backoff_duration="0s")
'''

CLEANED_UP = RETRYING.replace(
    '    failing(folder=data).set_retry(2, backoff_duration="0s")',
    '    with tasks.cleaned_up("any"):\n        tasks.step(failing(folder=data), image="any")',
).replace("from kfp import dsl\n", "from kfp import dsl\n\nfrom pipelines import tasks\n", 1)


def write(folder: Path, text: str) -> Path:
    """Writes a pipeline file."""
    path = folder / "pipeline.py"
    path.write_text(text, encoding="utf-8")
    return path
