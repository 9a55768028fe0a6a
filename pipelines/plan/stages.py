"""The moments at which a stage's memory peaks, and what it holds then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from components.common.training import LoraSettings, TrainingConfig
from components.data.config import DataConfig
from components.dpo.config import DpoConfig
from components.evaluate.config import EvaluateConfig
from components.prepare.config import RunConfig
from components.rl.config import RlConfig
from components.sft.config import SftConfig
from pipelines.plan.activations import (
    FLOAT32,
    Batch,
    Numerics,
    backward_transient,
    forward_transient,
    kept,
    kv_cache,
    layer_kept,
)
from pipelines.plan.architecture import Architecture

LOGITS_AT_ONCE = 2**25  # components.common.label_head.LOGITS_AT_ONCE, which cannot be imported without torch
HEAD_ROWS = 512  # components.common.evaluation.HEAD_ROWS
TRL_TILE = (4096, 32768)  # positions and tokens whose logits TRL's head for dpo computes at once
ANSWER_TOKENS = 16384  # positions in a batch of answers in evaluation: the default of components.common.generation
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: four bits, a byte for 64 weights, a float32 for 256 of these


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
    """

    stage: str
    batch: Batch
    moments: tuple[Moment, ...]
    parameters: int = 0

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

    def numerics(self, lora: LoraSettings | None, *, quantised: bool = False, checkpointing: bool = False) -> Numerics:
        """A stage's arithmetic on this machine."""
        width = 2 if self.half else FLOAT32
        if lora is None:
            return Numerics(width, r=0, checkpointing=checkpointing)
        return Numerics(width, quantised, lora.r, lora.target_modules, checkpointing)


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
    numerics = machine.numerics(
        config.lora, quantised=config.load_in_4bit, checkpointing=config.activation_checkpointing
    )
    share = max(1, config.train_batch_size // machine.processes)
    rows = min(config.per_device_train_batch_size, share)
    paired = stage in ("reward", "dpo")
    length = data.reward.max_length if paired else getattr(data, stage).max_length
    batch = Batch(2 * rows if paired else rows, length)
    held = _held(model, numerics, machine, head=stage != "reward", accumulates=share > rows)
    wanted = batch.tokens if labels is None else labels
    training = {**held.parts, **_training_step(stage, model, numerics, batch, wanted)}
    block = 0 if numerics.checkpointing else layer_kept(model, numerics, batch)
    last = {"activations": block + backward_transient(model, numerics, batch)}
    moments = [Moment("training", training), Moment("gradients", {**held.parts, **held.step, **last})]
    moments.append(Moment("evaluation", {**held.parts, **_evaluation(stage, model, numerics, config.eval_tokens)}))
    if isinstance(config, (SftConfig, DpoConfig)) and config.num_eval_prompts:
        prompt = max(1, length - config.max_new_tokens)
        prompts = -(-config.num_eval_prompts // machine.processes)
        answering = _generation(model, numerics, ANSWER_TOKENS, prompts, prompt, config.max_new_tokens)
        moments.append(Moment("answers", {**held.parts, **answering}))
    return StageMemory(stage, batch, tuple(moments), held.trained)


def rl_memory(model: Architecture, config: RlConfig, data: DataConfig, machine: Machine) -> StageMemory:
    """Memory of rl: adapters of policy, critic and reward model on one base."""
    numerics = machine.numerics(
        config.lora, quantised=config.load_in_4bit, checkpointing=config.activation_checkpointing
    )
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
    rollout = _generation(model, numerics, config.eval_tokens, prompts, prompt, answer)
    moments = (
        Moment("training", {**parts, **learning}),
        Moment("optimizer", {**parts, "activations": _foreach_adam(trained)}),
        Moment("scoring", {**parts, **scoring}),
        Moment("rollout", {**parts, **rollout}),
    )
    return StageMemory("rl", batch, moments, trained)


def evaluate_memory(model: Architecture, config: RunConfig, machine: Machine) -> StageMemory:
    """Memory of evaluate: one merged model after the other answers, then the reward model judges."""
    settings: EvaluateConfig = config.evaluate
    numerics = Numerics(2 if machine.half else FLOAT32, settings.load_in_4bit)
    prompt, answer = config.data.rl.max_prompt_length, settings.max_completion_length
    prompts = -(-settings.num_eval_prompts // machine.processes)
    answerer = {"weights": weights(model, numerics)}
    answering = _generation(model, numerics, settings.eval_tokens, prompts, prompt, answer, adapters=False)
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
    moments = 2 * FLOAT32 * trained
    gradients = FLOAT32 * trained
    buckets = gradients if machine.processes > 1 else 0  # DistributedDataParallel sums copies
    parts = {"weights": base, "adapters": adapters}
    optimizer = moments + buckets
    # Between steps there are no gradients; only where they are accumulated do they live beside activations.
    return _Held(
        {**parts, "optimizer": optimizer + (gradients if accumulates else 0)},
        trained,
        {"optimizer": optimizer + gradients},
    )


def weights(model: Architecture, numerics: Numerics, *, head: bool = True) -> int:
    """Bytes of the frozen base on the GPU, without its head if a score takes its place."""
    linear, other = model.linear_parameters, model.parameters - model.linear_parameters
    if not head and not model.tied:
        other -= model.embedding_parameters
    return int(linear * (NF4 if numerics.quantised else numerics.bytes)) + other * numerics.bytes


def _training_step(stage: str, model: Architecture, numerics: Numerics, batch: Batch, labels: int) -> dict[str, int]:
    """Activations and logits where they are most: at the end of the forward pass, or soon after it."""
    held = kept(model, numerics, batch)
    backward = backward_transient(model, numerics, batch)
    if stage == "reward":
        return {"activations": held + backward}
    if stage == "dpo":  # the reference's forward pass runs while the policy's activations wait
        reference = forward_transient(model, numerics, batch, adapters=False)
        logits = _trl_logits(model, numerics, labels)
        return {"activations": held + max(0, max(reference, backward) - logits), "logits": logits}
    states = labels * model.hidden_size * (numerics.bytes + FLOAT32)
    chunk = 4 * FLOAT32 * min(labels, max(1, LOGITS_AT_ONCE // model.vocab_size)) * model.vocab_size
    if numerics.full:
        chunk += 2 * FLOAT32 * model.embedding_parameters
    # Logits are gone when the layers' gradients come.
    return {"activations": held + states + max(0, backward - chunk), "logits": chunk}


def _trl_logits(model: Architecture, numerics: Numerics, labels: int) -> int:
    """TRL's head for dpo computes a tile of logits at a time: its kernel in place, plain torch on seven copies."""
    rows = min(labels, TRL_TILE[0])
    columns = min(model.vocab_size, TRL_TILE[1])
    return rows * (TRL_TILE[1] * numerics.bytes + (0 if numerics.mixed else 7 * FLOAT32 * columns))


def _evaluation(stage: str, model: Architecture, numerics: Numerics, tokens: int) -> dict[str, int]:
    transient = forward_transient(model, numerics, Batch(1, tokens)) - tokens**2 * (1 + numerics.bytes)
    if stage == "reward":
        return {"activations": transient}
    return {"activations": transient, "logits": 3 * FLOAT32 * HEAD_ROWS * model.vocab_size}


def rows_at_once(tokens: int, length: int, wanted: int) -> int:
    """Rows of one length in a batch of at most so many tokens, if so many are wanted."""
    return min(max(1, tokens // length), wanted)


def _generation(
    model: Architecture,
    numerics: Numerics,
    tokens: int,
    prompts: int,
    prompt: int,
    answer: int,
    *,
    adapters: bool = True,
) -> dict[str, int]:
    """Prompts are read with the cache already there; then tokens come one by one, each row's logits in float64 too."""
    rows = rows_at_once(tokens, prompt + answer, prompts)
    choosing = rows * model.vocab_size * (2 * FLOAT32 + 2 * 8)
    return {
        "activations": forward_transient(model, numerics, Batch(rows, prompt), adapters=adapters),
        "logits": choosing,
        "cache": kv_cache(model, numerics, rows, prompt + answer - 1),
    }


def _foreach_adam(trained: int) -> int:
    """Adam without fusing makes the denominators of all parameters at once."""
    return FLOAT32 * trained
