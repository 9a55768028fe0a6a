"""Settings and contract of the evaluate step."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from components.common.config import Config, Neutral
from components.common.stage import InputSpec, StageSpec
from components.rl.config import RewardFunction, check_names


class EvaluateConfig(Config):
    """Final evaluation on held-out prompts, before and after the whole run."""

    enabled: Annotated[bool, Neutral()] = True
    load_in_4bit: bool = Field(False, description="load models in NF4, where they do not fit; needs the extra qlora")
    num_eval_prompts: int = Field(256, ge=1)
    max_completion_length: int = Field(64, ge=1)
    reward_functions: tuple[RewardFunction, ...] = Field((), description="called on greedy answers")
    num_samples: int = Field(12, ge=0, description="prompts whose answers are shown side by side")
    eval_tokens: int = Field(16384, ge=1, description="padded tokens in one batch")
    gates: dict[str, float] = Field(
        {}, description="least value of a metric by its path, e.g. exact_answer.after: 0.5; missing it fails the step"
    )

    @model_validator(mode="after")
    def _check(self) -> EvaluateConfig:
        check_names(self.reward_functions)
        return self


SPEC = StageSpec(
    name="evaluate",
    result_version=1,
    config=EvaluateConfig,
    inputs={
        "model": InputSpec(("model",)),
        "dataset": InputSpec(("dataset",), made_by="data-rl"),
        "before": InputSpec(("model",), required=False),
        "reward": InputSpec(("reward_model",), required=False),
    },
)
