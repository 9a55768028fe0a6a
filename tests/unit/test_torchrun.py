"""The process that starts torchrun is told to stop: it tells torchrun, once, and says what the ranks say."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.support.commands import ROOT, environment, python

# In place of torchrun: ends a second after the first SIGTERM, and notes each; its ranks leave the given errors.
TORCHRUN = """
import json, os, signal, sys, time
from pathlib import Path
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
Path("begun").touch()
while not told:
    time.sleep(0.01)
time.sleep(1)
for rank, error in enumerate(json.loads(sys.argv[1])):
    Path(os.environ["RLHF_RANK_ERRORS"], f"{rank}.json").write_text(json.dumps(error))
Path("told").write_text(str(len(told)))
sys.exit(1)
"""
PARENT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests were started in the background
from argparse import Namespace
from components.common import torchrun
from components.common.guard import guarded
wait = torchrun._wait_for
torchrun._wait_for = lambda _, environment: wait([sys.executable, "-c", *sys.argv[1:]], environment)
arguments = Namespace(nproc=2, nnodes=1, config="c", output="o", input=[], set=[])
sys.exit(guarded(lambda: torchrun.run_ranks("sft", arguments) or 0))
"""
STOPPED = {"code": 75, "reason": "was told to stop after step 3", "where": "sft", "hint": "run the same command again"}
LOST = {"code": 1, "reason": "failed to recv, got 0 bytes", "where": "", "hint": ""}
FULL = {"code": 2, "reason": "the store is full", "where": "sft", "hint": "free space in it"}


@pytest.fixture
def start(tmp_path):
    """Starts the parent of a torchrun whose ranks end with the given errors."""
    started = []

    def begin(*errors):
        command = [sys.executable, "-c", PARENT, TORCHRUN, json.dumps(errors)]
        parent = subprocess.Popen(
            command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), stderr=subprocess.PIPE, text=True
        )
        started.append(parent)
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return parent

    yield begin
    for parent in started:
        parent.kill()


@pytest.mark.parametrize(
    ("errors", "code", "said"),
    [
        ([STOPPED, LOST], 75, "error: sft: was told to stop after step 3; run the same command again"),
        ([LOST, LOST], 75, "error: sft: was told to stop; run the same command again"),
        ([], 75, "error: sft: was told to stop; run the same command again"),
        ([STOPPED, FULL], 2, "error: sft: the store is full; free space in it"),
    ],
)
def test_the_ranks_have_the_last_word(start, tmp_path, errors, code, said):
    parent = start(*errors)
    for _ in range(3):  # an impatient person
        parent.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    assert parent.communicate(timeout=30)[1].strip() == said
    assert parent.returncode == code
    assert (tmp_path / "told").read_text() == "1"


def test_ctrl_c_ends_torchrun_before_its_parent(start, tmp_path):
    parent = start(STOPPED)
    parent.send_signal(signal.SIGINT)
    parent.wait(timeout=30)
    assert parent.returncode == 130
    assert (tmp_path / "told").read_text() == "1"


def test_torchrun_ends_when_its_parent_is_killed():
    """Else its ranks would train on, beside those of whoever comes next."""
    code = (
        "import subprocess, sys, torch.distributed.run as run\n"
        "run.run = lambda _: __import__('time').sleep(60)\n"
        "from components.common import elastic\n"
        "print('begun', flush=True)\n"
        "elastic.main(['x.py'])"
    )
    middle = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    parent = subprocess.Popen([sys.executable, "-c", middle], env=environment(), stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "begun\n"
    time.sleep(0.5)
    parent.kill()
    began = time.monotonic()
    assert parent.stdout.read() == ""  # until the last process that holds it has ended
    assert time.monotonic() - began < 10


RANK = """
import atexit, sys
from components.common import distributed
from components.common.entry import stage_main
from components.common.errors import UserError
from tests.unit.test_stage import SPEC, make
atexit.register(print, "Python's own way out")
distributed.leave = lambda: print(", left", end="")
def run(job):
    print("trained", end="")
    if job.config.size == 3:
        raise UserError("no such column")
    return make(job)
sys.exit(stage_main(SPEC, lambda: run))
"""


@pytest.mark.parametrize(("size", "code"), [(2, 0), (3, 2)])
def test_a_rank_ends_before_python_takes_its_lock_from_the_threads_of_gloo(tmp_path, size, code):
    """Of which one may hold tensors still, and would abort the process. It parts from the others when all is done."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (tmp_path / "run.yaml").write_text(f"sft: {{size: {size}}}")
    inputs = ["--config", "run.yaml", "--input", "model=model", "--output", "store"]
    as_rank = {"TORCHELASTIC_RUN_ID": "run", "RLHF_RANK_ERRORS": str(tmp_path), "PYTHONUNBUFFERED": ""}
    rank = python("-c", RANK, *inputs, cwd=tmp_path, **as_rank)
    assert rank.returncode == code, rank.stderr
    assert ("trained, left" if code == 0 else "trained") in rank.stdout
    assert "Python's own way out" not in rank.stdout
    assert (tmp_path / "0.json").exists() == bool(code)
