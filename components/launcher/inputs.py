"""Which of the URIs that a pipeline hands to a stage the stage can use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from components.common.inputs import find_input
from components.common.manifest import Kind
from components.common.stage import StageSpec


def usable_inputs(spec: StageSpec[Any], inputs: Mapping[str, str]) -> dict[str, str]:
    """Leaves out what is empty, and optional inputs that would not be used.

    A pipeline has the same edges whatever is switched off: behind a reward stage that is off, the "reward model" is the
    model that the stage was given.

    Args:
        spec: The stage.
        inputs: URI of each input by name.
    """
    given = {name: uri for name, uri in inputs.items() if uri}
    for name, wanted in spec.inputs.items():
        if name in given and not wanted.required and _kind(given[name]) not in wanted.kinds:
            del given[name]
    if spec.name == "rl" and "reward_model" in given and _stands_on(given["reward"], given["model"]):
        del given["reward_model"]  # it would be part of the key without having a part in the result
    return given


def missing_inputs(spec: StageSpec[Any], given: Mapping[str, str]) -> list[str]:
    """Names of the required inputs that are not there."""
    return [name for name, wanted in spec.inputs.items() if wanted.required and name not in given]


def _kind(uri: str) -> Kind:
    return find_input("input", uri, get_args(Kind)).kind


def _stands_on(adapter: str, model: str) -> bool:
    reward = find_input("reward", adapter, get_args(Kind))
    return reward.parent_digest("model") == find_input("model", model, get_args(Kind)).digest
