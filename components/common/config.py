"""Configuration: one pydantic model per stage, defaults < preset < file < flag, all errors at once.

A run's configuration is one YAML mapping with a section per step (`SECTIONS`). A stage reads its own section and
`seed`; it never looks at the others, so that a change there cannot change its key.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from components.common.errors import UserError
from components.common.store import read_uri

SECTIONS = (
    "seed",
    "model",
    "data",
    "pretrain",
    "sft",
    "reward",
    "rl",
    "dpo",
    "merge",
    "evaluate",
    "launcher",
)


class Neutral:
    """Marks a field that cannot change a stage's result (logging, saving, placement), so the key leaves it out.

    Example:
        `logging_steps: Annotated[int, Neutral()] = 10`
    """


class Config(BaseModel):
    """A frozen mapping that refuses unknown names. All stage configurations derive from it."""

    # Defaults are validated too: 32 and 32.0 would give two keys to one setting.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), validate_default=True)

    def for_key(self) -> dict[str, Any]:
        """The fields that can change the result, as plain data in a stable order."""
        return {
            name: _plain(getattr(self, name))
            for name, field in sorted(type(self).model_fields.items())
            if not any(isinstance(mark, Neutral) for mark in field.metadata)
        }


ConfigT = TypeVar("ConfigT", bound=Config)


def load_yaml(text: str, where: str) -> dict[str, Any]:
    """Parses a YAML mapping.

    Raises:
        UserError: The text is not YAML or not a mapping; `where` and the line are named.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise UserError(f"not valid YAML: {problem}", where=f"{where}{line}") from error
    except (ValueError, AttributeError, IndexError, TypeError, RecursionError) as error:
        # PyYAML lets through what Python says of a date such as 2026-13-45 or a number such as `!!int x`.
        raise UserError(f"not valid YAML: {str(error).splitlines()[0]}", where=where) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(
            f"a mapping is expected, not {type(value).__name__}", where=where, hint="write section: {field: value}"
        )
    return value


def read_config_file(uri: str) -> dict[str, Any]:
    """Reads a YAML configuration file, local or in a bucket.

    Raises:
        UserError: The file cannot be read or is not a YAML mapping.
        InputError: It is not in its bucket.
    """
    try:
        return load_yaml(read_uri(uri).decode(), uri)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", where=uri, hint="give a readable UTF-8 YAML file") from error


def merge_configs(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lays mappings over each other, later ones win, nested mappings are merged and everything else is replaced."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            below = merged.get(name)
            both_maps = isinstance(below, dict) and isinstance(value, Mapping)
            merged[name] = merge_configs(below, value) if both_maps else value  # type: ignore[arg-type]
    return merged


def parse_overrides(lines: Iterable[str]) -> dict[str, Any]:
    """Turns `sft.learning_rate=1e-4` lines into nested mappings; values are YAML, `1e-4` included (pydantic reads it).

    Raises:
        UserError: A line has no `=` or no name.
    """
    layers = []
    for line in lines:
        name, equals, text = line.strip().partition("=")
        if not equals or not name.strip():
            raise UserError("an override is written section.field=value", where=repr(line.strip()))
        value = load_yaml(f"v: {text}", name)["v"]
        for part in reversed(name.strip().split(".")):
            value = {part: value}
        layers.append(value)
    return merge_configs(*layers)


def check_sections(config: Mapping[str, Any], where: str) -> None:
    """Refuses top-level names that no step reads.

    Raises:
        UserError: Naming every unknown section and the nearest known one.
    """
    # In YAML a name may be a number, a date or null.
    unknown = [f"{name} ({suggest(str(name), SECTIONS)})" for name in config if name not in SECTIONS]
    if unknown:
        raise UserError(f"unknown section {', '.join(unknown)}", where=where, hint=f"sections: {', '.join(SECTIONS)}")


def validate(kind: type[ConfigT], values: Any, section: str, where: str) -> ConfigT:
    """Builds a configuration model and reports every mistake in one error.

    Args:
        kind: The model to build.
        values: The section's mapping; `None` stands for an empty section.
        section: Name of the section, for messages.
        where: File the section came from, for messages.

    Raises:
        UserError: One line naming each field, what is wrong with it and what was probably meant.
    """
    try:
        return kind.model_validate({} if values is None else values)
    except ValidationError as error:
        faults = {(tuple(problem["loc"]), problem["msg"]): problem for problem in error.errors()}
        # A part that takes a value over from its section has the section's fault: it is told once.
        told = [
            fault for (loc, msg), fault in faults.items() if (loc[:-2] + loc[-1:], msg) not in faults or len(loc) < 2
        ]
        raise UserError(" | ".join(_describe(fault, kind, section) for fault in told), where=where) from error


def _describe(problem: Any, kind: type[BaseModel], section: str) -> str:
    path = [str(part) for part in problem["loc"]]
    name = ".".join(part for part in [section, *path] if part)
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown field ({suggest(path[-1], _fields_at(kind, path[:-1]))})"
    value = problem.get("input")
    shown = "" if isinstance(value, dict) or problem["type"] == "missing" else f", got {value!r}"
    fault = problem["msg"].removeprefix("Value error, ").removeprefix("Input ").partition(", unable to parse")[0]
    return f"{name}: {fault}{shown}" if name else f"{fault}{shown}"


def _fields_at(kind: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the model that a path leads to, through lists and optional values."""
    for part in path:
        field = kind.model_fields.get(part)
        if field is None:
            continue  # an index into a list
        inner = _model_in(field.annotation)
        if inner is None:
            return []
        kind = inner
    return list(kind.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names, or all of them if none is near."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.for_key()
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in sorted(value.items())}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
