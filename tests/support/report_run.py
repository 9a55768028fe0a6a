"""Runs that the report's tests look at: finished, failed, running, mixed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.common.flows import flow_steps
from tests.support.report_artifacts import write_base, write_data, write_evaluation, write_merge
from tests.support.report_store import Made
from tests.support.report_training import write_stage

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)> \"quoted\" & </style></pre>"
SECONDS = {"prepare": 63.2, "data": 11.4, "pretrain": 41.0, "sft": 58.8, "reward": 37.9, "rl": 71.3, "evaluate": 9.6}
KILLED = {
    "code": 75,
    "reason": "was killed, most likely for lack of memory",
    "where": "components.rl",
    "hint": "use smaller batches",
}
VARIANTS: dict[str, dict[str, Any]] = {
    "finished": {},
    "failed": {"failed": ("rl", KILLED)},
    "failed at once": {"failed": ("prepare", KILLED)},
    "running": {"running": "reward"},
    "stopped": {"until": "sft"},
    "reused and off": {"reused": ("prepare", "data", "sft", "merge-sft"), "off": ("pretrain", "evaluate")},
    "all off": {"off": ("pretrain", "sft", "reward", "rl", "evaluate")},
    "dpo": {"pipeline": "dpo"},
    "dpo begun": {"pipeline": "dpo", "until": "prepare"},
}


def make_run(
    root: Path,
    *,
    until: str = "report",
    failed: tuple[str, dict[str, Any]] | None = None,
    running: str = "",
    off: Sequence[str] = (),
    reused: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    pipeline: str = "rlhf",
) -> Made:
    """Writes a run up to and including the step `until`; `failed` or `running` end it earlier."""
    made = Made(root)
    made.settings |= settings or {}
    write_base(made)
    if pipeline != "rlhf":
        made.store.write(f"runs/{made.run_id}/request.json", json.dumps({"pipeline": pipeline}).encode())
    model = "base"
    for step in flow_steps(pipeline):
        stage = step.removeprefix("merge-")
        if failed and step == failed[0]:
            made.record(step, state="failed", seconds=4.2, error=failed[1])
            break
        if step == running:
            made.record(step, state="running", seconds=0.0)
            break
        if stage in off or (step == "merge-reward" and "reward" in off):
            made.settings.setdefault(stage, {})["enabled"] = False
            made.record(step, made.uris[model], state="off", seconds=0.1)
            continue
        if step == "data":
            write_data(made)
        elif step == "evaluate":
            write_evaluation(made, model)
        elif step.startswith("merge-"):
            write_merge(made, stage, model)
            model = step if stage != "reward" else model
        elif step not in ("prepare", "report"):
            write_stage(made, step, model, **(changes or {}).get(step, {}))
        names = [name for name in made.uris if name.startswith("data-")] if step == "data" else [step]
        uri = " ".join(made.uris["base" if name == "prepare" else name] for name in names if name != "report")
        if step == "report":
            made.record(step, state="running", seconds=0.0)
        elif step in reused:
            made.record(step, uri, state="reused", seconds=0.1, made_in=SECONDS.get(step, 0.9))
        else:
            made.record(step, uri, seconds=SECONDS.get(step, 0.9))
        if step == until:
            break
    made.configure()
    return made
