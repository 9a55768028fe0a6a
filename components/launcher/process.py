"""Runs a step as a process of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.common.errors import RetryableError, RlhfError, error_from_dict


def run_module(module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Runs `python -m module` and hands its output on, line by line.

    Args:
        module: What to run.
        arguments: Its command line.
        environment: Added to this process's own.

    Raises:
        RlhfError: The process failed; the error is its own if it left one.
    """
    with tempfile.TemporaryDirectory(prefix="rlhf-step-") as folder:
        termination = Path(folder, "termination.json")
        variables = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            **environment,
            "RLHF_TERMINATION_LOG": str(termination),
        }
        status = subprocess.run([sys.executable, "-m", module, *arguments], env=variables, check=False).returncode
        if status == 0:
            return
        if termination.exists():
            raise error_from_dict(json.loads(termination.read_text(encoding="utf-8")))
    if status in (-15, 128 + 15):
        raise RetryableError("was told to stop", where=module, hint="run the same command again to go on")
    if status in (-9, 128 + 9):
        raise RetryableError("was killed, most likely for lack of memory", where=module, hint="use smaller batches")
    raise RlhfError(f"ended with exit code {status}", where=module, hint="see its output above")
