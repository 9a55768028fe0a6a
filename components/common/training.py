"""Settings that all training stages share, under the names of transformers and PEFT."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.common.config import Config, Neutral


class LoraSettings(Config):
    """LoRA (Hu et al. 2021, arXiv:2106.09685)."""

    r: int = Field(16, ge=1, description="rank")
    lora_alpha: float = Field(32, gt=0, description="the update is scaled by lora_alpha / r")
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    use_rslora: bool = Field(False, description="scale by lora_alpha / sqrt(r) (arXiv:2312.03732)")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="last parts of the layers' names; all-linear leaves out lm_head and score"
    )


class TrainingConfig(Config):
    """What pretrain, sft, reward and dpo have in common."""

    enabled: Annotated[bool, Neutral()] = Field(True, description="off: the stage hands its input on")
    lora: LoraSettings | None = Field(LoraSettings(), description="null: train all parameters")
    adapter: Annotated[str, Neutral()] = Field(
        "", description="URI of an adapter of this very base to go on from; its rank, scale and targets are kept"
    )
    load_in_4bit: bool = Field(False, description="QLoRA: keep the frozen weights in NF4; needs the extra qlora")
    sharding: Annotated[Literal["none", "fsdp2"], Neutral()] = Field(
        "none", description="fsdp2: split all parameters among the processes, for a model that does not fit one GPU"
    )
    learning_rate: float = Field(2e-4, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps in which the rate rises")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    num_train_epochs: float = Field(1.0, gt=0)
    max_steps: int = Field(-1, description="optimizer steps; -1: as many as num_train_epochs makes")
    train_batch_size: int = Field(
        16, ge=1, description="rows (pairs for reward and dpo) in an optimizer step, over all processes"
    )
    per_device_train_batch_size: Annotated[int, Neutral()] = Field(
        1, ge=1, description="rows that one process computes at a time; accumulation makes up the rest"
    )
    activation_checkpointing: Annotated[bool, Neutral()] = Field(
        False, description="recompute activations in the backward pass: less memory, about a third more time"
    )
    eval_tokens: int = Field(2048, ge=1, description="padded tokens in one evaluation batch")
    num_samples: int = Field(8, ge=0, description="held-out rows whose answers are shown before and after")
    require_improvement: Annotated[bool, Neutral()] = Field(
        False, description="fail the stage if its main held-out metric is no better than before"
    )
    logging_steps: Annotated[int, Neutral()] = Field(10, ge=1)
    save_steps: Annotated[int, Neutral()] = Field(100, ge=1, description="steps between checkpoints")
    eval_steps: int = Field(0, ge=0, description="steps between measurements of the held-out loss; 0: none on the way")
    load_best_model_at_end: bool = Field(
        False, description="keep the weights with the lowest held-out loss, not the last"
    )
    early_stopping_patience: int = Field(0, ge=0, description="stop after so many measurements without gain; 0: never")
    report_to: Annotated[tuple[str, ...], Neutral()] = Field(
        (), description="trackers, as accelerate names them: wandb, mlflow, …"
    )
    save_total_limit: Annotated[int, Neutral()] = Field(2, ge=1, description="checkpoints that are kept")

    @model_validator(mode="after")
    def _steps(self) -> TrainingConfig:
        if self.max_steps == 0 or self.max_steps < -1:
            raise ValueError("max_steps must be -1 or at least 1")
        if self.load_in_4bit and self.lora is None:
            raise ValueError("load_in_4bit freezes the weights: it needs lora")
        if self.load_in_4bit and self.sharding != "none":
            raise ValueError("sharding cannot split weights in 4 bits: set load_in_4bit to false or sharding to none")
        if self.adapter and self.lora is None:
            raise ValueError("adapter: none is trained with lora: null")
        if (self.load_best_model_at_end or self.early_stopping_patience) and not self.eval_steps:
            raise ValueError("load_best_model_at_end and early_stopping_patience need eval_steps")
        return self
