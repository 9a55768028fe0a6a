"""Our pipelines by name: which stages each has, and in which order its steps run."""

from __future__ import annotations

from collections.abc import Mapping

from components.common.errors import UserError

FLOWS: Mapping[str, tuple[str, ...]] = {
    "rlhf": ("pretrain", "sft", "reward", "rl"),
    "dpo": ("pretrain", "sft", "dpo"),
}
DEFAULT_FLOW = "rlhf"
TRAINING_STAGES = ("pretrain", "sft", "reward", "rl", "dpo")


def flow_stages(pipeline: str) -> tuple[str, ...]:
    """The training stages of a pipeline.

    Raises:
        UserError: There is no such pipeline.
    """
    if pipeline not in FLOWS:
        raise UserError(f"there is no pipeline {pipeline!r}", where="pipeline", hint=f"pipelines: {', '.join(FLOWS)}")
    return FLOWS[pipeline]


def flow_steps(pipeline: str) -> tuple[str, ...]:
    """The steps of a pipeline, a merge after each stage."""
    trained = [step for stage in flow_stages(pipeline) for step in (stage, f"merge-{stage}")]
    return ("prepare", "data", *trained, "evaluate", "report")
