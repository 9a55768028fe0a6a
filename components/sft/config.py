"""Settings and contract of the sft stage."""

from __future__ import annotations

from pydantic import Field

from components.common.stage import InputSpec, StageSpec
from components.common.training import TrainingConfig


class SftConfig(TrainingConfig):
    """Supervised fine-tuning on conversations; only the assistant's turns carry labels."""

    num_eval_prompts: int = Field(256, ge=0, description="held-out prompts answered for the exact-match metric")
    max_new_tokens: int = Field(64, ge=1, description="longest answer written in evaluation")


SPEC = StageSpec(
    name="sft",
    result_version=1,
    config=SftConfig,
    inputs={
        "model": InputSpec(("model",)),
        "dataset": InputSpec(("dataset",), made_by="data-sft"),
        "adapter": InputSpec(("adapter",), required=False),
    },
    main_metric="loss",
    higher_is_better=False,
)
