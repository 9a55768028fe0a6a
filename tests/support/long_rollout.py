"""Run as a process, or by torchrun: the loop of rl with a rollout that takes minutes, because nothing ends a turn.

python -m tests.support.long_rollout FOLDER: FOLDER holds `base` and `reward`; `rolling-RANK` is made once it has begun.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from components.common import distributed
from components.common.artifacts import Artifact
from components.common.directory_store import DirectoryStore
from components.common.guard import guarded
from components.common.stage import Job, Plan
from components.data.table import build_table
from components.data.tokenise import Tokens
from components.rl import loop
from components.rl.build import build_roles
from components.rl.config import SPEC, RlConfig
from components.rl.experience import Setup
from components.rl.rollout import Prompts, Rollout, roll_out

NO_TOKEN = -1
CONFIG = RlConfig(rollout_batch_size=4, max_completion_length=100_000, max_steps=1)


def main(folder: Path) -> int:
    def announced(*arguments: Any) -> Rollout:
        (folder / f"rolling-{distributed.rank()}").touch()
        return roll_out(*arguments)

    loop.roll_out = announced  # type: ignore[attr-defined]
    inputs = {
        "model": Artifact(str(folder / "base"), folder / "base", "", "model"),
        "reward": Artifact(str(folder / "reward"), folder / "reward", "", "adapter"),
    }
    work = folder / "work" / "run"
    job = Job(Plan(SPEC, CONFIG, 0, inputs, DirectoryStore(folder), "", ""), folder, work)
    rows = [Tokens(np.arange(3, 8)) for _ in range(4)]
    prompts = Prompts(build_table(rows, 100), [{"messages": [{"role": "user", "content": ""}]}] * 4)
    loop.learn(job, Setup(build_roles(job), prompts, lambda ids: "", (), CONFIG, seed=0), range(4), NO_TOKEN)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(Path(sys.argv[1]))))
