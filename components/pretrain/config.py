"""Settings and contract of the pretrain stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.common.stage import InputSpec, StageSpec
from components.common.training import TrainingConfig


class PretrainConfig(TrainingConfig):
    """Continued pre-training of a causal language model on documents."""

    init: Literal["model", "scratch"] = Field(
        "model", description="scratch: random weights for the input model's architecture; needs lora: null"
    )


SPEC = StageSpec(
    name="pretrain",
    result_version=1,
    config=PretrainConfig,
    inputs={
        "model": InputSpec(("model",)),
        "dataset": InputSpec(("dataset",), made_by="data-pretrain"),
        "adapter": InputSpec(("adapter",), required=False),
    },
    main_metric="perplexity",
    higher_is_better=False,
)
