"""Settings and contract of the rl stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from components.common.config import Config, Neutral
from components.common.functions import PATTERN, code_digest
from components.common.stage import InputSpec, StageSpec
from components.common.training import LoraSettings


class RewardFunction(Config):
    """A reward computed by Python code, called as TRL calls its reward functions."""

    function: str = Field(
        pattern=PATTERN, description="module:function; gets prompts, completions and the row's columns by name"
    )
    weight: float = Field(1.0, description="0: only measured")

    @property
    def name(self) -> str:
        """The function's own name."""
        return self.function.partition(":")[2]

    def for_key(self) -> dict[str, Any]:
        """Adds the function's code."""
        return {**super().for_key(), "code": code_digest(self.function)}


# Names under which the stages report other things than a reward function's values.
RESERVED = ("reward", "kl", "kl_k3", "beta", "lr", "entropy", "ended", "prompts", "loss")


def check_names(functions: Sequence[RewardFunction]) -> None:
    """Refuses reward functions whose values would be taken for something else.

    Raises:
        ValueError: Naming them.
    """
    names = [function.name for function in functions]
    doubled = sorted({name for name in names if names.count(name) > 1 or name in RESERVED})
    if doubled:
        raise ValueError(f"reward functions need names of their own: rename {', '.join(doubled)}")


class SolveRate(Config):
    """Keeps only groups of prompts that the model solves sometimes: what it always or never solves teaches nothing."""

    function: str = Field(pattern=PATTERN, description="module:function that gives 1 for solved, 0 for not")
    group_by: str = Field(description="column that names a prompt's group")
    low: float = Field(0.3, ge=0, le=1)
    high: float = Field(0.8, ge=0, le=1)
    samples: int = Field(64, ge=1, description="training prompts of each group that are tried")

    def for_key(self) -> dict[str, Any]:
        """Adds the function's code."""
        return {**super().for_key(), "code": code_digest(self.function)}


class RlConfig(Config):
    """Reinforcement learning from a reward model: PPO with a critic, or RLOO or GRPO without."""

    enabled: Annotated[bool, Neutral()] = Field(True, description="off: the stage hands its input on")
    algorithm: Literal["ppo", "rloo", "grpo"] = Field("ppo", description="rloo and grpo compare a prompt's completions")
    lora: LoraSettings = LoraSettings()
    load_in_4bit: bool = Field(False, description="QLoRA: keep the frozen weights in NF4; needs the extra qlora")
    max_steps: int = Field(100, ge=1, description="rollout batches")
    rollout_batch_size: int = Field(64, ge=1, description="completions in a rollout batch, over all processes")
    num_generations: int = Field(1, ge=1, description="completions of each prompt")
    max_completion_length: int = Field(64, ge=1, description="tokens, the end-of-turn token included")
    temperature: float = Field(1.0, gt=0, description="divides the logits, in sampling and in scoring alike")
    merged_rollout: bool = Field(
        False,
        description="write with the adapter folded into the base; each process copies its weights to main memory",
    )
    num_ppo_epochs: int = Field(2, ge=1, description="passes over a rollout batch")
    num_mini_batches: int = Field(2, ge=1, description="optimizer steps a pass")
    per_device_train_batch_size: Annotated[int, Neutral()] = Field(8, ge=1, description="completions computed at once")
    learning_rate: float = Field(5e-5, gt=0)
    critic_learning_rate: float = Field(1e-4, gt=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    gamma: float = Field(1.0, ge=0, le=1)
    lam: float = Field(0.95, ge=0, le=1, description="lambda of generalised advantage estimation")
    cliprange: float = Field(0.2, gt=0)
    cliprange_value: float = Field(0.2, gt=0)
    beta: float = Field(0.05, ge=0, description="weight of the KL penalty, at the start if it is adaptive")
    target_kl: float | None = Field(None, gt=0, description="nats a completion; set: beta adapts to reach it")
    kl_horizon: int = Field(10000, ge=1, description="completions over which an adaptive beta reacts")
    missing_eos_penalty: float = Field(1.0, ge=0, description="taken off a completion that does not end by itself")
    whiten_rewards: bool = Field(False, description="ppo: scale rewards to unit variance")
    scale_rewards: bool = Field(True, description="grpo: divide by the standard deviation of a prompt's scores")
    reward_clip: float | None = Field(None, gt=0, description="weighted rewards are cut off at ± this in training")
    reward_model_weight: float = 1.0
    reward_functions: tuple[RewardFunction, ...] = ()
    critic_init: Literal["reward", "zero"] = Field("reward", description="where the critic's adapter and head start")
    solve_rate: SolveRate | None = None
    num_eval_prompts: int = Field(256, ge=1)
    num_samples: int = Field(8, ge=0, description="held-out prompts whose answers are shown before and after")
    eval_tokens: int = Field(16384, ge=1, description="padded tokens in one batch of generation or scoring")
    activation_checkpointing: Annotated[bool, Neutral()] = False
    require_improvement: Annotated[bool, Neutral()] = False
    logging_steps: Annotated[int, Neutral()] = Field(1, ge=1)
    save_steps: Annotated[int, Neutral()] = Field(10, ge=1, description="rollout batches between checkpoints")
    report_to: Annotated[tuple[str, ...], Neutral()] = Field(
        (), description="trackers, as accelerate names them: wandb, mlflow, …"
    )
    save_total_limit: Annotated[int, Neutral()] = Field(2, ge=1, description="checkpoints that are kept")

    @model_validator(mode="after")
    def _check(self) -> RlConfig:
        if self.rollout_batch_size % (self.num_generations * self.num_mini_batches):
            raise ValueError("rollout_batch_size must be a multiple of num_generations × num_mini_batches")
        if self.algorithm != "ppo" and self.num_generations < 2:
            raise ValueError(f"{self.algorithm} compares completions of one prompt: num_generations must be 2 or more")
        if self.algorithm == "grpo" and self.target_kl is not None:
            raise ValueError("target_kl adapts a penalty on rewards; grpo has its own in the loss: set target_kl: null")
        if self.merged_rollout and self.load_in_4bit:
            raise ValueError("merged_rollout cannot fold an adapter into weights in 4 bits: set one of them only")
        check_names(self.reward_functions)
        if self.lora.lora_dropout:
            raise ValueError("lora.lora_dropout must be 0: a policy with dropout is not the one that sampled")
        return self

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps in all."""
        return self.max_steps * self.num_ppo_epochs * self.num_mini_batches


SPEC = StageSpec(
    name="rl",
    result_version=1,
    config=RlConfig,
    inputs={
        "model": InputSpec(("model",)),
        "reward": InputSpec(("adapter", "reward_model")),
        "reward_model": InputSpec(("reward_model",), required=False),
        "dataset": InputSpec(("dataset",), made_by="data-rl"),
    },
    main_metric="reward",
)
