"""The stage contract: what a stage declares, how its inputs and key are found, what it is given to run.

Nothing here needs torch: the launcher plans a stage to see whether its result is already there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from components.common.artifacts import Artifact, find_manifest, stage_key
from components.common.config import ConfigT, check_sections, validate
from components.common.errors import InputError, UserError
from components.common.inputs import find_input, split_uri
from components.common.manifest import Kind, Manifest, Parent
from components.common.store import Store, open_store

EXPECTED_KEY = "RLHF_STAGE_KEY"  # what the launcher tells a stage: the key that it has made for it


@dataclass(frozen=True)
class InputSpec:
    """An input that a stage reads.

    Attributes:
        kinds: The kinds of artifact it accepts.
        required: Whether the stage cannot do without.
        made_by: The stage that must have made it; empty: any. All datasets are of one kind.
    """

    kinds: tuple[Kind, ...]
    required: bool = True
    made_by: str = ""


@dataclass(frozen=True)
class StageSpec(Generic[ConfigT]):
    """What a stage declares in its config.py.

    Attributes:
        name: Name of the stage and of its folder below `artifacts` and `work`.
        result_version: Raised by hand when the code gives other results for the same inputs.
        config: The model of its section.
        inputs: Its inputs by name.
        seeded: Whether the seed can change the result.
        section: Path of its section in a run's configuration, if that is not its name.
        main_metric: The held-out metric that says whether the stage did what it is for; measured before and after.
        higher_is_better: Of the main metric.
    """

    name: str
    result_version: int
    config: type[ConfigT]
    inputs: Mapping[str, InputSpec]
    seeded: bool = True
    section: str = ""
    main_metric: str = ""
    higher_is_better: bool = True

    def section_of(self, config: Mapping[str, Any]) -> Any:
        """The stage's own section of a run's configuration."""
        section: Any = config
        for part in (self.section or self.name).split("."):
            section = (section or {}).get(part)
        return section


@dataclass(frozen=True)
class Plan(Generic[ConfigT]):
    """A stage with its configuration, its inputs and the place of its result."""

    spec: StageSpec[ConfigT]
    config: ConfigT
    seed: int
    inputs: Mapping[str, Artifact]
    store: Store
    prefix: str
    key: str

    @property
    def uri(self) -> str:
        """Where the result is or will be."""
        return f"{self.store.root}/{self.prefix}"

    def finished(self) -> Manifest | None:
        """The result's manifest if the result is already there.

        Raises:
            InputError: Something else is there: `--output` named an artifact made in another way.
        """
        manifest = find_manifest(self.store, self.prefix)
        if manifest and manifest.key != self.key:
            raise InputError(
                f"holds a result of {manifest.stage} with key {manifest.key}, this one has {self.key}",
                where=self.uri,
                hint="choose another --output, or remove that artifact",
            )
        return manifest

    def parents(self) -> dict[str, Parent]:
        """The inputs as the manifest records them."""
        inside = f"{self.store.root}/"
        return {
            name: Parent(uri=artifact.uri.removeprefix(inside), digest=artifact.digest)
            for name, artifact in self.inputs.items()
        }

    def verify_inputs(self) -> None:
        """Compares every input's files with its manifest.

        Raises:
            InputError: Naming the first file that differs.
        """
        for artifact in self.inputs.values():
            artifact.verify()
        self._check_tokenizers()

    def _check_tokenizers(self) -> None:
        known = {
            name: artifact.manifest.tokenizer
            for name, artifact in self.inputs.items()
            if artifact.manifest and artifact.manifest.tokenizer
        }
        for name, identity in known.items():
            for what, value in identity.items():
                other = next((n for n, i in known.items() if i.get(what, value) != value), None)
                if other:
                    raise InputError(
                        f"has another {what.replace('_', ' ')} than the input {other}",
                        where=self.inputs[name].uri,
                        hint="make both from one base model",
                    )


@dataclass(frozen=True)
class Job(Generic[ConfigT]):
    """What a stage's verbs are given.

    Attributes:
        plan: Configuration, inputs, place of the result.
        out: Empty local folder; what `save` leaves there becomes the artifact.
        work: Local folder of this run for curves, logs and checkpoints; it outlives the artifact.
    """

    plan: Plan[ConfigT]
    out: Path
    work: Path

    @property
    def config(self) -> ConfigT:
        return self.plan.config

    @property
    def seed(self) -> int:
        return self.plan.seed

    @property
    def name(self) -> str:
        return self.plan.spec.name

    def folder(self, name: str) -> Path:
        """Local folder of an input."""
        return self.plan.inputs[name].folder

    def has(self, name: str) -> bool:
        """Whether an optional input was given."""
        return name in self.plan.inputs


@dataclass(frozen=True)
class Result:
    """What a stage reports when `save` has written its files."""

    kind: Kind
    metrics: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, str] = field(default_factory=dict)


def make_plan(
    spec: StageSpec[ConfigT], config: Mapping[str, Any], where: str, inputs: Mapping[str, str], output: str
) -> Plan[ConfigT]:
    """Resolves a stage's configuration, inputs and key.

    Args:
        spec: The stage.
        config: A run's configuration (`SECTIONS`).
        where: File it came from, for messages.
        inputs: URI of each input by name.
        output: A store root, or the full URI of the artifact to make.

    Raises:
        UserError: The configuration or the set of inputs is wrong.
        InputError: An input is missing, incomplete or of a wrong kind.
    """
    check_sections(config, where)
    section = validate(spec.config, spec.section_of(config), spec.section or spec.name, where)
    seed = config.get("seed", 0)
    if not isinstance(seed, int):
        raise UserError(f"seed: an integer is expected, got {seed!r}", where=where)
    _check_names(spec, inputs)
    found = {name: find_input(name, uri, spec.inputs[name].kinds) for name, uri in sorted(inputs.items())}
    for name, artifact in found.items():
        _check_maker(name, artifact, spec.inputs[name].made_by)
    parents = {name: artifact.digest for name, artifact in found.items()}
    key = stage_key(spec.name, spec.result_version, section.for_key(), parents, seed if spec.seeded else 0)
    root, prefix, below = split_uri(output)
    if prefix and (below or prefix.split("/")[1] != spec.name):
        raise UserError(f"is no place for a result of {spec.name}", where=output, hint="give the store's root")
    store = open_store(root)
    _check_versions(spec.name, key)
    return Plan(spec, section, seed, found, store, prefix or f"artifacts/{spec.name}/{key}", key)


def _check_versions(stage: str, key: str) -> None:
    """Refuses to train as another version of this code than the launcher's: it would write where it may not."""
    expected = os.environ.get(EXPECTED_KEY, key)
    if expected != key:
        raise UserError(
            f"the launcher made the key {expected} for this stage and its image {key}: they are of different versions",
            where=stage,
            hint="set RLHF_VERSION (the chart's images.tag) or launcher.images to images of the launcher's version",
        )


def _check_maker(name: str, artifact: Artifact, wanted: str) -> None:
    if wanted and artifact.manifest and artifact.manifest.stage != wanted:
        raise InputError(
            f"was made by {artifact.manifest.stage}, the input {name} takes what {wanted} makes",
            where=artifact.uri,
            hint="check the URI",
        )


def _check_names(spec: StageSpec[Any], inputs: Mapping[str, str]) -> None:
    unknown = sorted(set(inputs) - set(spec.inputs))
    missing = sorted(name for name, wanted in spec.inputs.items() if wanted.required and name not in inputs)
    if unknown:
        raise UserError(
            f"unknown input {', '.join(unknown)}", where=spec.name, hint=f"inputs: {', '.join(spec.inputs)}"
        )
    if missing:
        raise UserError(f"input {', '.join(missing)} is missing", where=spec.name, hint=f"--input {missing[0]}=URI")
