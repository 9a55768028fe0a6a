"""What would make a stage fit: changes of its configuration, each computed like the stage itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from components.common.config import merge_configs, parse_overrides
from components.common.errors import UserError
from components.prepare.config import RunConfig

SHORTEST = 128  # tokens; a shorter row would be another task

Total = Callable[[RunConfig], float]


@dataclass(frozen=True)
class Advice:
    """Overrides that make a stage fit, and what it then takes in bytes."""

    overrides: tuple[str, ...]
    total: float


def advise(stage: str, config: RunConfig, total: Total, limit: float) -> Advice | None:
    """The cheapest changes that make a stage fit: one alone if one is enough, else the fewest of them in order.

    Args:
        stage: Its name.
        config: The run's configuration.
        total: Bytes that the stage takes under a configuration.
        limit: Bytes that there are.

    Returns:
        None if no such change is enough.
    """
    changes = {kind: list(_steps(kind, stage, config)) for kind in _KINDS}
    for steps in changes.values():
        for overrides in steps:
            found = _advice(config, overrides, total)
            if found and found.total <= limit:
                return found
    for other in ("four bits", "shards"):  # one excludes the other
        found = _together([steps for kind, steps in changes.items() if steps and kind != other], config, total, limit)
        if found:
            return found
    return None


def _together(changes: list[list[tuple[str, ...]]], config: RunConfig, total: Total, limit: float) -> Advice | None:
    """The fewest changes that make a stage fit together; of each kind the strongest before the next is begun."""
    together: tuple[str, ...] = ()
    for steps in changes:
        for overrides in steps:
            found = _advice(config, (*together, *overrides), total)
            if found and found.total <= limit:
                return _leanest(config, found, total, limit)
        together = (*together, *steps[-1])
    return None


def _leanest(config: RunConfig, advice: Advice, total: Total, limit: float) -> Advice:
    """Leaves out changes that the others make needless."""
    for change in advice.overrides:
        rest = tuple(override for override in advice.overrides if override != change)
        found = _advice(config, rest, total)
        if found and found.total <= limit:
            return _leanest(config, found, total, limit)
    return advice


def apply(config: RunConfig, overrides: tuple[str, ...]) -> RunConfig:
    """A configuration with some fields changed."""
    return RunConfig.model_validate(merge_configs(config.model_dump(), parse_overrides(overrides)))


def _advice(config: RunConfig, overrides: tuple[str, ...], total: Total) -> Advice | None:
    try:
        return Advice(overrides, total(apply(config, overrides)))
    except (UserError, ValueError):  # a change that the stage does not allow
        return None


def _steps(kind: str, stage: str, config: RunConfig) -> Iterator[tuple[str, ...]]:
    """One kind of change, from the mildest to the strongest that makes sense."""
    section: Any = getattr(config, stage)
    if kind == "micro-batch" and hasattr(section, "per_device_train_batch_size"):
        for rows in _halves(section.per_device_train_batch_size, 1):
            yield (f"{stage}.per_device_train_batch_size={rows}",)
    elif kind == "batches" and hasattr(section, "eval_tokens"):
        for tokens in _halves(section.eval_tokens, 1024):
            yield (f"{stage}.eval_tokens={tokens}",)
    elif kind == "answers" and hasattr(section, "max_new_tokens"):
        for prompts in _halves(section.num_eval_prompts, 8):
            yield (f"{stage}.num_eval_prompts={prompts}",)
    elif kind == "checkpointing" and getattr(section, "activation_checkpointing", True) is False:
        yield (f"{stage}.activation_checkpointing=true",)
    elif kind == "shards" and getattr(section, "sharding", "") == "none":
        yield (f"{stage}.sharding=fsdp2",)
    elif kind == "adapter" and getattr(section, "lora", ...) is None:
        yield (f"{stage}.lora={{}}",)
    elif kind == "four bits" and not section.load_in_4bit:
        lora = (f"{stage}.lora={{}}",) if getattr(section, "lora", ...) is None else ()
        yield (*lora, f"{stage}.load_in_4bit=true")
    elif kind == "length":
        yield from _shorter(stage, config)


def _shorter(stage: str, config: RunConfig) -> Iterator[tuple[str, ...]]:
    task = {"dpo": "reward", "evaluate": "rl"}.get(stage, stage)
    part: Any = getattr(config.data, task)
    field = "max_prompt_length" if task == "rl" else "max_length"
    for tokens in _halves(getattr(part, field), SHORTEST):
        yield (f"data.{task}.{field}={tokens}",)


def _halves(value: int, least: int) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value


# What changes no result comes first, then what costs time, then what changes what is learnt.
_KINDS = ("micro-batch", "batches", "answers", "checkpointing", "shards", "four bits", "adapter", "length")
