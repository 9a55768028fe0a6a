"""The moments at which a stage's memory peaks, and what it holds then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from components.common.training import TrainingConfig
from components.data.config import DataConfig
from components.dpo.config import DpoConfig
from components.evaluate.config import EvaluateConfig
from components.prepare.config import RunConfig
from components.rl.config import RlConfig
from components.sft.config import SftConfig
from pipelines.plan.activations import FLOAT32, Batch, Numerics, backward_transient, forward_transient, kept, layer_kept
from pipelines.plan.architecture import Architecture
from pipelines.plan.parts import (
    evaluation,
    foreach_adam,
    gathered,
    generation,
    outer_parameters,
    rows_at_once,
    training_step,
    weights,
)


@dataclass(frozen=True)
class Moment:
    """Bytes by what they are for, at one moment.

    Attributes:
        name: What is going on.
        parts: Bytes of `weights`, `adapters`, `optimizer`, `activations`, `logits`, `cache`.
    """

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class StageMemory:
    """A stage's moments on one GPU.

    Attributes:
        stage: Its name.
        batch: The micro-batch that it trains on, or the batch of prompts that it answers.
        moments: What it holds, at each moment that may be the largest.
        parameters: Trained ones.
        copied: Bytes of main memory that each process keeps copies of weights in.
    """

    stage: str
    batch: Batch
    moments: tuple[Moment, ...]
    parameters: int = 0
    copied: int = 0

    @property
    def peak(self) -> Moment:
        """The largest."""
        return max(self.moments, key=lambda moment: moment.total)


@dataclass(frozen=True)
class Machine:
    """Where it runs.

    Attributes:
        processes: Of training, one a GPU.
        half: Whether the device computes in float16, as a T4 does; a CPU does not.
    """

    processes: int = 4
    half: bool = True

    def numerics(self, config: TrainingConfig | RlConfig) -> Numerics:
        """A stage's arithmetic on this machine."""
        width, checkpointing = 2 if self.half else FLOAT32, config.activation_checkpointing
        shards = self.processes if getattr(config, "sharding", "none") == "fsdp2" else 1
        if config.lora is None:
            return Numerics(width, r=0, checkpointing=checkpointing, shards=shards)
        lora = config.lora
        return Numerics(width, config.load_in_4bit, lora.r, lora.target_modules, checkpointing, shards)


def stage_memory(stage: str, model: Architecture, config: RunConfig, machine: Machine) -> StageMemory:
    """What a stage holds.

    Args:
        stage: A training stage, or `evaluate`.
        model: Its base.
        config: The run's configuration.
        machine: Where it runs.
    """
    if stage == "rl":
        return rl_memory(model, config.rl, config.data, machine)
    if stage == "evaluate":
        return evaluate_memory(model, config, machine)
    section: TrainingConfig = getattr(config, stage)
    return training_memory(stage, model, section, config.data, machine)


def training_memory(
    stage: str,
    model: Architecture,
    config: TrainingConfig,
    data: DataConfig,
    machine: Machine,
    labels: int | None = None,
) -> StageMemory:
    """Memory of pretrain, sft, reward or dpo.

    Args:
        stage: Which.
        model: The base.
        config: The stage's settings.
        data: Says how long rows are.
        machine: Where it runs.
        labels: Label tokens of a micro-batch, if known; otherwise all of them, the most there can be.
    """
    numerics = machine.numerics(config)
    share = max(1, config.train_batch_size // machine.processes)
    rows = min(config.per_device_train_batch_size, share)
    paired = stage in ("reward", "dpo")
    length = data.reward.max_length if paired else getattr(data, stage).max_length
    batch = Batch(2 * rows if paired else rows, length)
    held = _held(model, numerics, machine, head=stage != "reward", accumulates=share > rows)
    wanted = batch.tokens if labels is None else labels
    training = {**held.parts, **training_step(stage, model, numerics, batch, wanted)}
    block = 0 if numerics.checkpointing else layer_kept(model, numerics, batch)
    last = {"activations": block + backward_transient(model, numerics, batch)}
    moments = [Moment("training", training), Moment("gradients", {**held.parts, **held.step, **last})]
    moments.append(Moment("evaluation", {**held.parts, **evaluation(stage, model, numerics, config.eval_tokens)}))
    if isinstance(config, (SftConfig, DpoConfig)) and config.num_eval_prompts:
        prompt = max(1, length - config.max_new_tokens)
        prompts = -(-config.num_eval_prompts // machine.processes)
        answering = generation(model, numerics, config.eval_tokens, prompts, prompt, config.max_new_tokens)
        moments.append(Moment("answers", {**held.parts, **answering}))
    return StageMemory(stage, batch, tuple(moments), held.trained)


def rl_memory(model: Architecture, config: RlConfig, data: DataConfig, machine: Machine) -> StageMemory:
    """Memory of rl: adapters of policy, critic and reward model on one base."""
    numerics = machine.numerics(config)
    prompt, answer = data.rl.max_prompt_length, config.max_completion_length
    minibatch = config.rollout_batch_size // config.num_mini_batches
    rows = min(config.per_device_train_batch_size, max(1, minibatch // machine.processes))
    batch = Batch(rows, prompt + answer)
    adapter = model.lora_parameters(numerics.r, numerics.target_modules)
    trained = adapter * (2 if config.algorithm == "ppo" else 1)
    parts = {
        "weights": weights(model, numerics),
        "adapters": FLOAT32 * (trained + adapter),
        "optimizer": 3 * FLOAT32 * trained,  # gradients stay, and two moments
    }
    logits = rows * answer * model.vocab_size
    gone = 5 * FLOAT32 * logits
    learning = {
        "activations": kept(model, numerics, batch) + max(0, backward_transient(model, numerics, batch) - gone),
        "logits": gone,
    }
    scoring = {
        "activations": forward_transient(model, numerics, batch),
        "logits": (3 * FLOAT32 + numerics.bytes) * logits,
    }
    prompts = -(-config.rollout_batch_size // machine.processes)
    rollout = generation(model, numerics, config.eval_tokens, prompts, prompt, answer)
    moments = (
        Moment("training", {**parts, **learning}),
        Moment("optimizer", {**parts, "activations": foreach_adam(trained)}),
        Moment("scoring", {**parts, **scoring}),
        Moment("rollout", {**parts, **rollout}),
    )
    folded = sum(linear.width * linear.out for linear in model.lora_targets(numerics.target_modules))
    copied = model.layers * numerics.bytes * folded if config.merged_rollout else 0
    return StageMemory("rl", batch, moments, trained, copied)


def evaluate_memory(model: Architecture, config: RunConfig, machine: Machine) -> StageMemory:
    """Memory of evaluate: one merged model after the other answers, then the reward model judges."""
    settings: EvaluateConfig = config.evaluate
    numerics = Numerics(2 if machine.half else FLOAT32, settings.load_in_4bit)
    prompt, answer = config.data.rl.max_prompt_length, settings.max_completion_length
    prompts = -(-settings.num_eval_prompts // machine.processes)
    answerer = {"weights": weights(model, numerics)}
    answering = generation(model, numerics, settings.eval_tokens, prompts, prompt, answer, adapters=False)
    judged = rows_at_once(settings.eval_tokens, prompt + answer, prompts)
    judging = forward_transient(model, numerics, Batch(judged, prompt + answer), adapters=False)
    without_head = {"weights": weights(model, numerics, head=False)}
    return StageMemory(
        "evaluate",
        Batch(judged, prompt + answer),
        (Moment("answers", {**answerer, **answering}), Moment("judging", {**without_head, "activations": judging})),
    )


@dataclass(frozen=True)
class _Held:
    """What a training stage holds all the time, and what an optimizer step adds."""

    parts: Mapping[str, int]
    trained: int
    step: Mapping[str, int] = field(default_factory=dict)


def _held(model: Architecture, numerics: Numerics, machine: Machine, *, head: bool, accumulates: bool) -> _Held:
    if numerics.full:
        trained, adapters, base = model.parameters, 0, FLOAT32 * model.parameters
    else:
        trained = model.lora_parameters(numerics.r, numerics.target_modules) + (0 if head else model.hidden_size)
        adapters, base = FLOAT32 * trained, weights(model, numerics, head=head)
    split = numerics.shards
    moments = 2 * FLOAT32 * trained // split
    gradients = FLOAT32 * trained // split
    # DistributedDataParallel sums copies; FSDP has whole gradients of what it is at, and sums them in float32.
    at_once = outer_parameters(model) + model.linear_parameters // model.layers if numerics.full else 0
    buckets = gradients if machine.processes > 1 and split == 1 else 0
    whole = at_once * (numerics.bytes + FLOAT32) if split > 1 else 0
    parts = {"weights": base // split + gathered(model, numerics, head=head), "adapters": adapters // split}
    optimizer = moments + buckets
    # Between steps there are no gradients; only where they are accumulated do they live beside activations.
    return _Held(
        {**parts, "optimizer": optimizer + (gradients if accumulates else 0)},
        trained,
        {"optimizer": optimizer + gradients + whole},
    )
