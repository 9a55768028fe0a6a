"""Every field of the configuration that has a bound or a choice refuses what is outside of it, by its name."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel

from components.common.config import validate
from components.common.errors import UserError
from components.prepare.config import RunConfig

Path = tuple[str | int, ...]
OUTSIDE = {Ge: lambda b: b.ge - 1, Gt: lambda b: b.gt, Le: lambda b: b.le + 1, Lt: lambda b: b.lt}


def cases(kind: type[BaseModel], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """A path to each field with a value that is out of range, one for each bound."""
    for name, field in kind.model_fields.items():
        here = (*path, name)
        yield from ((here, value) for value in outside(field.metadata))
        yield from of_annotation(field.annotation, here)


def of_annotation(annotation: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """The same for what a field's type says, through optional values, lists and mappings."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from ((path, value) for value in outside(arguments[1:]))
        yield from of_annotation(arguments[0], path)
    elif origin is Literal:
        yield path, "none of the choices"
    elif origin in (Union, types.UnionType):
        for part in arguments:
            yield from of_annotation(part, path)
    elif origin in (list, tuple, dict):
        for part in arguments:
            yield from of_annotation(part, (*path, "name" if origin is dict else 0))
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from cases(annotation, path)


def outside(metadata: Any) -> Iterator[Any]:
    """A value beyond each bound."""
    for item in metadata:
        parts = item.metadata if hasattr(item, "metadata") else [item]
        for bound in parts:
            if type(bound) in OUTSIDE:
                yield OUTSIDE[type(bound)](bound)
            assert not isinstance(bound, MaxLen | MinLen) or bound in (MinLen(1),), f"no value is made for {bound}"
            if isinstance(bound, MinLen):
                yield []


def nested(path: Path, value: Any) -> Any:
    """The configuration with one value in it."""
    for part in reversed(path):
        value = [value] if part == 0 else {part: value}
    return value


CASES = [case for case in cases(RunConfig) if "name" not in case[0]]


def test_there_are_bounds_in_all_sections():
    assert len(CASES) > 150
    assert {path[0] for path, _ in CASES} >= set(RunConfig.model_fields) - {"seed", "report", "launcher"}


@pytest.mark.parametrize(
    ("path", "value"), CASES, ids=lambda part: ".".join(map(str, part)) if isinstance(part, tuple) else repr(part)
)
def test_a_value_out_of_range_is_refused_by_name(path, value):
    with pytest.raises(UserError) as caught:
        validate(RunConfig, nested(path, value), "", "run.yaml")
    said = str(caught.value)
    assert caught.value.code == 2
    assert said.startswith("run.yaml: ")
    assert "\n" not in said
    assert ".".join(map(str, path)) in said
