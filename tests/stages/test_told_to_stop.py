"""SIGTERM in the middle of a rollout that would go on for minutes: a checkpoint within half a minute."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.commands import ROOT, environment
from tests.support.models import save_reward_adapter, tiny_model

GRACE = 30.0  # seconds; 100,000 tokens take longer than 40 even at 0.4 ms each, which no model of ours does
BEGIN = {1: [], 2: ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]}


@pytest.mark.parametrize("processes", BEGIN)
def test_a_long_rollout_is_given_up_for_a_checkpoint(processes, tokenizer, tmp_path):
    tiny_model("llama", tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    save_reward_adapter(tmp_path / "base", tmp_path / "reward", tokenizer.pad_token_id)
    command = [sys.executable, *BEGIN[processes], "-m", "tests.support.long_rollout", str(tmp_path)]
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        run = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("rolling-*"))) < processes:
            assert run.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        time.sleep(2)
        assert run.poll() is None, log.read_text()
        told = time.monotonic()
        run.send_signal(signal.SIGTERM)
        run.wait(timeout=GRACE)
        taken = time.monotonic() - told
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
    print(f"{processes} processes: {taken:.1f} s from SIGTERM to the end")
    assert taken < GRACE / 2, log.read_text()
    assert log.read_text().count("error: rl: was told to stop after step 0; run the same command again") == processes
    assert run.returncode == (75 if processes == 1 else 1), log.read_text()  # torchrun's own code is always 1
    (checkpoint,) = (tmp_path / "work").glob("run/checkpoints/step-*")
    assert {"state.pt", "manifest.json"} <= {path.name for path in checkpoint.iterdir()}
