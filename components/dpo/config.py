"""Settings and contract of the dpo stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.common.config import Neutral
from components.common.stage import InputSpec, StageSpec
from components.common.training import TrainingConfig

# TRL has more. Left out are those whose loss is no sum over pairs (aot, aot_unpaired, sft: it would change with the
# micro-batch), and those that need settings of their own.
LossType = Literal[
    "sigmoid", "sigmoid_norm", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "sppo_hard", "apo_zero", "apo_down"
]
SMOOTHED: tuple[LossType, ...] = ("robust", "exo_pair")


class DpoConfig(TrainingConfig):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290)."""

    learning_rate: float = Field(5e-5, gt=0)
    per_device_train_batch_size: Annotated[int, Neutral()] = Field(
        8, ge=1, description="pairs that one process computes at a time"
    )
    beta: float = Field(0.1, gt=0, description="how dear it is to leave the reference; τ of ipo (arXiv:2310.12036)")
    loss_type: LossType = Field("sigmoid", description="TRL's name of the loss; sigmoid is the paper's")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="share of pairs that are expected to be the wrong way round; robust and exo_pair"
    )
    num_eval_prompts: int = Field(128, ge=0, description="held-out prompts answered for samples and exact match")
    max_new_tokens: int = Field(64, ge=1, description="longest answer written in evaluation")

    @model_validator(mode="after")
    def _check(self) -> DpoConfig:
        if self.lora is None:
            raise ValueError("dpo trains an adapter: its reference is the model with the adapter off")
        if self.adapter:
            raise ValueError("adapter: dpo's reference is its model with the adapter off, so merge that one first")
        if self.lora.lora_dropout:
            raise ValueError("lora.lora_dropout must be 0: policy and reference are compared on the same pairs")
        if self.label_smoothing and self.loss_type not in SMOOTHED:
            raise ValueError(f"label_smoothing has no part in loss_type {self.loss_type}: use {' or '.join(SMOOTHED)}")
        if self.loss_type == "exo_pair" and not self.label_smoothing:
            raise ValueError("loss_type exo_pair needs label_smoothing; its paper recommends 1e-3")
        return self


SPEC = StageSpec(
    name="dpo",
    result_version=1,
    config=DpoConfig,
    inputs={"model": InputSpec(("model",)), "dataset": InputSpec(("dataset",))},
    main_metric="accuracy",
)
