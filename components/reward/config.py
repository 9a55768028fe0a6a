"""Settings and contract of the reward stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from components.common.config import Neutral
from components.common.stage import InputSpec, StageSpec
from components.common.training import TrainingConfig


class RewardConfig(TrainingConfig):
    """Reward modelling on preference pairs (Bradley-Terry)."""

    per_device_train_batch_size: Annotated[int, Neutral()] = Field(
        16, ge=1, description="pairs that one process computes at a time"
    )
    center_rewards_coefficient: float = Field(
        0.01, ge=0, description="weight of the mean squared sum of a pair's scores, which keeps scores around zero"
    )
    num_parity_pairs: int = Field(50, ge=1, description="held-out pairs stored with their scores, to check merges by")

    @model_validator(mode="after")
    def _adapter(self) -> RewardConfig:
        if self.lora is None:
            raise ValueError("the reward model is an adapter with a score head, because rl runs it on its own base")
        return self


SPEC = StageSpec(
    name="reward",
    result_version=1,
    config=RewardConfig,
    inputs={
        "model": InputSpec(("model",)),
        "dataset": InputSpec(("dataset",), made_by="data-reward"),
        "adapter": InputSpec(("adapter",), required=False),
    },
    main_metric="accuracy",
)
