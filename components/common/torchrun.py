"""Starting a stage's processes with torchrun, on one machine or as one of several."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.common.errors import RetryableError, UserError, error_from_dict
from components.common.signals import on_sigterm

# Of several ranks' errors, the one that the user can act on; a bug tells more than the loss of a peer that it caused.
_TELLING = (2, 3, 1, 75)
_GRACE = 115  # seconds from SIGTERM to SIGKILL: torchrun itself allows 30, less than pods and `rlhf run` do


def run_ranks(stage: str, arguments: argparse.Namespace) -> None:
    """Starts torchrun on a stage's own command line.

    Args:
        stage: The stage.
        arguments: What it was given, with `nproc` and `nnodes`.

    Raises:
        RlhfError: A process failed. It is the error of the rank that tells most; torchrun's exit code is always 1.
    """
    command = [sys.executable, "-m", "components.common.elastic", *_rendezvous(stage, arguments.nnodes)]
    command += [f"--nproc-per-node={arguments.nproc}", "-m", f"components.{stage}"]
    command += ["--config", arguments.config, "--output", arguments.output]
    for name, uri in arguments.input:
        command += ["--input", f"{name}={uri}"]
    for override in arguments.set:
        command += ["--set", override]
    with tempfile.TemporaryDirectory(prefix="rlhf-ranks-") as folder:
        environment = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_GRACE), **os.environ, "RLHF_RANK_ERRORS": folder}
        status, told = _wait_for(command, environment)
        errors = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(Path(folder).glob("*.json"))]
    if status == 0:
        return
    if told:  # whatever became of those that lost a peer in the end
        errors = [fields for fields in errors if fields["code"] != 1]
    if errors:
        raise error_from_dict(min(errors, key=lambda fields: _TELLING.index(fields["code"])))
    if told:
        raise RetryableError("was told to stop", where=stage, hint="run the same command again")
    raise RetryableError("a training process was killed", where=stage, hint="use smaller batches, or try again")


def _wait_for(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, bool]:
    """Runs a command that is told to stop when this process is: what its processes then say is the end of it.

    It is told once: torchrun does not wait for its processes if it is told a third time. So it has a session of its
    own, too, which neither Ctrl-C nor a signal to our group reaches.

    Returns:
        Its exit code, and whether it was told.
    """
    told = False

    def forward(*_: object) -> None:
        nonlocal told
        if not told:
            process.send_signal(signal.SIGTERM)
        told = True

    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        before = on_sigterm(forward)
        try:
            return process.wait(), told
        finally:
            on_sigterm(before)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait()


def _rendezvous(stage: str, nnodes: int) -> list[str]:
    """How torchrun finds the other nodes: by what the training operator, or whoever starts the nodes, has set.

    Here `RANK` is the number of the node, as the operator counts; torchrun gives its processes theirs.
    """
    if nnodes == 1:
        return ["--standalone"]
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "RANK") if name not in os.environ]
    if missing:
        raise UserError(
            f"{', '.join(missing)} not set", where=f"{stage} --nnodes {nnodes}", hint="set them as torchrun asks"
        )
    master = [f"--master-addr={os.environ['MASTER_ADDR']}", f"--master-port={os.environ['MASTER_PORT']}"]
    return [f"--nnodes={nnodes}", f"--node-rank={os.environ['RANK']}", *master]
