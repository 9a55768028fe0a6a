"""Runs the little stage on a cluster as a launcher does, in a process of its own, which a test can kill."""

from __future__ import annotations

import dataclasses
import json
import sys

from components.common.guard import guarded
from components.launcher.cluster_run import run_on_cluster
from components.launcher.job import StageJob, stage_job
from components.launcher.planned import launcher_config


def step_of(fields: dict) -> StageJob:
    """The little stage, or another module of the tests, as a step."""
    root, key = fields["root"], fields["key"]
    output = f"{root}/artifacts/sft/{key}"
    job = stage_job(
        fields["run"],
        "sft",
        key,
        ["--output", output, *fields["arguments"]],
        root,
        launcher_config(fields),
        cluster=True,
        output=output,
        reads=fields.get("reads", ()),
        writes=[f"artifacts/sft/{key}", f"work/sft/{key}"],
    )
    return dataclasses.replace(job, module=fields.get("module", "tests.support.little_stage"))


def main() -> int:
    run_on_cluster(step_of(json.loads(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
