"""How long a stage takes on T4s: arithmetic at a stated share of what they sustain, decoding by what it reads."""

from __future__ import annotations

from dataclasses import dataclass

from components.common.training import TrainingConfig
from components.data.config import DataConfig
from components.prepare.config import RunConfig
from components.rl.config import RlConfig
from pipelines.plan.activations import Numerics
from pipelines.plan.architecture import Architecture
from pipelines.plan.parts import rows_at_once, weights
from pipelines.plan.stages import Machine
from pipelines.plan.t4 import Gpu

# Kernels that a block launches in a forward pass: projections with an adapter each, norms, positions, attention, cache.
KERNELS = 60
DEQUANTISING = 1.3  # four-bit weights are written out before every product


@dataclass(frozen=True)
class Speed:
    """An estimate.

    Attributes:
        tokens: Tokens a second, over all GPUs; in rl, of prompts and completions.
        step: Seconds of an optimizer step, in rl of a rollout batch with all that it teaches.
        seconds: Of all training steps, where the configuration says how many there are.
    """

    tokens: float
    step: float
    seconds: float | None


def stage_speed(stage: str, model: Architecture, config: RunConfig, machine: Machine, gpu: Gpu) -> Speed | None:
    """A training stage's speed; None for evaluate, which trains nothing."""
    if stage == "evaluate":
        return None
    if stage == "rl":
        return _rl(model, config.rl, config.data, machine, gpu)
    return _training(stage, model, getattr(config, stage), config.data, machine, gpu)


def _training(
    stage: str, model: Architecture, config: TrainingConfig, data: DataConfig, machine: Machine, gpu: Gpu
) -> Speed:
    numerics = machine.numerics(config)
    paired = stage in ("reward", "dpo")
    length = data.reward.max_length if paired else getattr(data, stage).max_length
    forward = forward_flops(model, length, head=stage != "reward")
    passes = passes_of(numerics) + (1 if stage == "dpo" else 0)  # dpo's reference
    share = max(1, config.train_batch_size // machine.processes)
    rows = min(config.per_device_train_batch_size, share) * (2 if paired else 1)
    computing = rows * length * passes * forward / _flops(gpu, numerics)
    micro = max(computing, passes * model.layers * KERNELS * gpu.launch, gathering(stage, model, numerics, gpu))
    rate = machine.processes * rows * length / micro
    tokens = config.train_batch_size * length * (2 if paired else 1)
    steps = config.max_steps if config.max_steps > 0 else None
    return Speed(rate, tokens / rate, steps * tokens / rate if steps else None)


def _rl(model: Architecture, config: RlConfig, data: DataConfig, machine: Machine, gpu: Gpu) -> Speed:
    numerics = machine.numerics(config)
    prompt, answer = data.rl.max_prompt_length, config.max_completion_length
    mine = -(-config.rollout_batch_size // machine.processes)
    positions = mine * (prompt + answer)
    critic = config.algorithm == "ppo"
    forward = forward_flops(model, prompt + answer, head=False)
    scored = (4 if critic else 3) * positions * forward
    learnt = (2 if critic else 1) * config.num_ppo_epochs * passes_of(numerics) * positions * forward
    heads = 2 * model.embedding_parameters * mine * answer * (2 + 3 * config.num_ppo_epochs)
    prefill = mine * prompt * forward_flops(model, prompt, head=False)
    computing = (scored + learnt + heads + prefill) / _flops(gpu, numerics)
    batches = -(-mine // rows_at_once(config.eval_tokens, prompt + answer, mine))
    step = computing + batches * answer * token_seconds(model, numerics, gpu)
    return Speed(machine.processes * positions / step, step, config.max_steps * step)


def forward_flops(model: Architecture, length: int, *, head: bool) -> float:
    """Operations that a token of a row takes: two for each weight, four for each pair of positions and query."""
    attention = 4 * length * model.query_size * model.layers
    return 2 * model.linear_parameters + attention + (2 * model.embedding_parameters if head else 0)


def gathering(stage: str, model: Architecture, numerics: Numerics, gpu: Gpu) -> float:
    """Seconds to gather split parameters for a micro-batch, once a pass, while the block before them computes."""
    passes = 3 if stage == "dpo" else 2
    theirs = 1 - 1 / numerics.shards
    return passes * theirs * model.parameters * numerics.bytes / gpu.link


def passes_of(numerics: Numerics) -> float:
    """Forward, the gradient of what comes in, that of the weights where they are trained, and a forward pass anew."""
    return 2 + (1 if numerics.full else 0) + (1 if numerics.checkpointing else 0)


def token_seconds(model: Architecture, numerics: Numerics, gpu: Gpu) -> float:
    """Seconds to write one token of each row of a batch: all weights are read, and every kernel is launched."""
    read = weights(model, numerics) / (gpu.bandwidth * gpu.utilisation)
    return max(read, model.layers * KERNELS * gpu.launch)


def _flops(gpu: Gpu, numerics: Numerics) -> float:
    return gpu.flops * gpu.utilisation / (DEQUANTISING if numerics.quantised else 1)
