"""Runs a step as a process of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from components.common.errors import RetryableError, RlhfError, error_from_dict
from components.launcher.job import StageJob


def run_here(job: StageJob) -> None:
    """Runs a step with this interpreter and hands its output on, line by line.

    Args:
        job: The step; its image and what it asks of a cluster do not matter.

    Raises:
        RlhfError: The process failed; the error is its own if it left one.
    """
    with tempfile.TemporaryDirectory(prefix="rlhf-step-") as folder:
        termination = Path(folder, "termination.json")
        variables = {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "RLHF_RUN_ID": job.run,
            **_threads(job),
            **job.environment,
            "RLHF_TERMINATION_LOG": str(termination),
        }
        command = [sys.executable, *job.command[1:]]
        status = subprocess.run(command, env=variables, check=False).returncode
        if status == 0:
            return
        if termination.exists():
            raise error_from_dict(json.loads(termination.read_text(encoding="utf-8")))
    if status in (-15, 128 + 15):
        raise RetryableError("was told to stop", where=job.module, hint="run the same command again to go on")
    if status in (-9, 128 + 9):
        raise RetryableError("was killed, most likely for lack of memory", where=job.module, hint="use smaller batches")
    raise RlhfError(f"ended with exit code {status}", where=job.module, hint="see its output above")


def _threads(job: StageJob) -> dict[str, str]:
    """Threads of each process: as configured, else as the environment says, else a fair share of our cores."""
    if job.config.omp_num_threads is None and "OMP_NUM_THREADS" in os.environ:
        return {}
    cores = len(os.sched_getaffinity(0))
    return {"OMP_NUM_THREADS": str(job.config.omp_num_threads or max(1, cores // job.processes))}
