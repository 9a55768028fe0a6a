"""A Dockerfile as data: its stages, and what each inherits."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One `FROM … AS name`.

    Attributes:
        name: The stage's.
        base: The stage or image that it starts from, as written.
        steps: Instructions and their arguments, in order, without the `FROM`.
    """

    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """Arguments of each instruction of a kind."""
        return [arguments for kind, arguments in self.steps if kind == instruction]

    def pairs(self, instruction: str) -> dict[str, str]:
        """`key=value` arguments of ENV or LABEL."""
        words = [word for arguments in self.all(instruction) for word in shlex.split(arguments)]
        return dict(word.split("=", 1) for word in words)


def read_stages(path: Path) -> tuple[dict[str, str], dict[str, Stage]]:
    """Reads a Dockerfile without here-documents.

    Returns:
        Build arguments before the first stage, and the stages by name.
    """
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(name, base)
        elif stages:
            list(stages.values())[-1].steps.append((instruction, " ".join(rest.split())))
        else:
            key, _, value = rest.partition("=")
            arguments[key] = value
    return arguments, stages


def lineage(stages: dict[str, Stage], name: str) -> Stage:
    """A stage with the steps of all that it starts from before its own."""
    stage = stages[name]
    if stage.base not in stages:
        return stage
    below = lineage(stages, stage.base)
    return Stage(name, below.base, below.steps + stage.steps)
