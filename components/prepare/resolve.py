"""Defaults < preset < file < parameters: one checked configuration for all steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from components.common.config import (
    load_yaml,
    merge_configs,
    parse_overrides,
    read_config_file,
    validate,
)
from components.common.errors import UserError
from components.common.flows import DEFAULT_FLOW, TRAINING_STAGES, flow_stages
from components.common.store import is_s3, local_path
from components.data.records import TASKS
from components.data.sources import names_below
from components.prepare.config import RunConfig


@dataclass(frozen=True)
class Request:
    """What a person asked for: the parameters of the pipeline.

    Attributes:
        preset: Name of a preset, or a path, or YAML text.
        config: YAML text, or a path.
        overrides: Lines `section.field=value`.
        model: The base model, if not the preset's.
        data: A folder with a file or folder for each stage, if not the preset's.
        seed: Of everything random; negative: the configuration's.
        pipeline: Name of the pipeline; the stages that it does not have are off.
    """

    preset: str
    config: str = ""
    overrides: str = ""
    model: str = ""
    data: str = ""
    seed: int = -1
    pipeline: str = DEFAULT_FLOW


def resolve(request: Request) -> RunConfig:
    """Lays the layers over each other and checks the result.

    Raises:
        UserError: All mistakes in one line.
    """
    layers: list[dict[str, Any]] = [read_preset(request.preset)]
    if request.config:
        layers.append(_read_config(request.config))
    overrides = parse_overrides(_lines(request.overrides))
    stages = flow_stages(request.pipeline)
    _refuse_idle(overrides, stages, request.pipeline)
    parameters: dict[str, Any] = {"seed": request.seed} if request.seed >= 0 else {}
    if request.model:
        parameters["model"] = {"source": request.model}
    if request.data:
        parameters["data"] = {"builder": None, **_data_folder(request.data)}
    off = {stage: {"enabled": False} for stage in TRAINING_STAGES if stage not in stages}
    return validate(RunConfig, merge_configs(*layers, overrides, parameters, off), "", "configuration")


def read_preset(name: str) -> dict[str, Any]:
    """Reads a preset by name, or a file by path, or YAML text.

    Raises:
        UserError: There is no such preset.
    """
    if "\n" in name:
        return load_yaml(name, "preset")
    if "/" in name or name.endswith((".yaml", ".yml")):
        return read_config_file(name)
    folder = resources.files("pipelines.presets")
    found = folder / f"{name}.yaml"
    if not found.is_file():
        raise UserError(f"there is no preset {name!r}", where="preset", hint=f"presets: {', '.join(presets())}")
    return load_yaml(found.read_text(encoding="utf-8"), f"preset {name}")


def presets() -> list[str]:
    """Names of the presets that come with the package."""
    names = (path.name for path in resources.files("pipelines.presets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _refuse_idle(overrides: Mapping[str, Any], stages: Sequence[str], pipeline: str) -> None:
    """Refuses overrides of stages that the pipeline does not have. A preset or a file may serve several pipelines."""
    idle = [stage for stage in overrides if stage in TRAINING_STAGES and stage not in stages]
    if idle:
        raise UserError(
            f"the pipeline {pipeline} has no stage {idle[0]}",
            where=idle[0],
            hint=f"its stages: {', '.join(stages)}",
        )


def _read_config(config: str) -> dict[str, Any]:
    """Reads YAML text or a file; text has a colon and is no file's name."""
    if "\n" not in config and len(config) < 1000 and (is_s3(config) or local_path(config).is_file()):
        return read_config_file(config)
    if ":" in config and not config.startswith(("/", ".", "file://")):
        return load_yaml(config, "config")
    raise UserError("no such file", where=config, hint="give YAML text or the path of a YAML file")


def _lines(overrides: str) -> Sequence[str]:
    return [line for line in overrides.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _data_folder(data: str) -> dict[str, Any]:
    """Finds each stage's sources below a folder by name: `sft/`, `sft.jsonl` and the like."""
    names = names_below(data)
    if not names:
        raise UserError(
            "no such folder, or it is empty", where=data, hint=f"give a folder with {', '.join(TASKS)} files or folders"
        )
    place = data.rstrip("/") if "://" in data else str(local_path(data))
    found = {task: [f"{place}/{name}" for name in names if name.split(".")[0] == task] for task in TASKS}
    if not any(found.values()):
        raise UserError(
            "holds no data by name", where=data, hint=f"name its files or folders {', '.join(TASKS)}, e.g. sft.jsonl"
        )
    return {task: {"sources": paths} for task, paths in found.items()}
