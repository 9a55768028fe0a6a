"""Settings and contract of the data step: one part for each training stage, one dataset artifact a part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, field_validator, model_validator

from components.common.config import Config, Neutral
from components.common.functions import PATTERN, code_digest
from components.common.stage import InputSpec, StageSpec
from components.data.records import TASKS, Task

SampleBy = Literal["auto", "line", "paragraph", "document"]


class Source(Config):
    """One source of rows.

    A dataset is named by its sources' content: `path` says where to read, `digest` what is read.
    """

    path: Annotated[str, Neutral()] = Field(description="file, folder, artifact URI, or owner/name[:split] on the hub")
    digest: str = Field("", description="hash of the content; filled in when the configuration is resolved")
    max_samples: int | None = Field(None, ge=1, description="read only the first so many rows")
    weight: float | None = Field(
        None, gt=0, description="share of the stage's training rows; the weights of all sources may have any sum"
    )
    sample_by: SampleBy = Field("auto", description="what one document of a .txt file is")


def expand_sources(value: Any) -> Any:
    """Writes sources that were given as paths, or as one path, in full."""
    items = [value] if isinstance(value, (str, dict)) else value
    return [{"path": item} if isinstance(item, str) else item for item in items or ()]


class PartConfig(Config):
    """What the parts have in common."""

    sources: tuple[Source, ...] = Field((), description="paths, or mappings with the fields of a source")
    heldout: float = Field(0.05, gt=0, lt=1, description="share of the prompts that is held out; set data.heldout")
    split_by: str | None = Field(None, description="column that decides the side of a row; set data.split_by")
    max_samples: int | None = Field(None, ge=1, description="most training rows, of all sources; drawn by the seed")
    max_heldout: int = Field(1000, ge=1, description="held-out rows that are used; the rest is for neither side")

    @field_validator("sources", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return expand_sources(value)

    @model_validator(mode="after")
    def _all_or_none(self) -> PartConfig:
        if len({source.weight is None for source in self.sources}) > 1:
            raise ValueError("give every source a weight, or none")
        return self

    @property
    def weights(self) -> list[float] | None:
        """The weight of every source, None if they have none."""
        weights = [source.weight for source in self.sources if source.weight is not None]
        return weights or None

    @property
    def draws(self) -> bool:
        """Whether training rows are drawn by the seed, not just taken."""
        return self.max_samples is not None or self.weights is not None


class PretrainPart(PartConfig):
    """Documents."""

    max_length: int = Field(1024, ge=8, description="tokens in a row; longer documents are cut into pieces")


class SftPart(PartConfig):
    """Conversations."""

    max_length: int = Field(1024, ge=8, description="tokens in a row, and of the longest conversation")
    packing: bool = Field(True, description="let short conversations share a row; none attends to another")
    assistant_turns: Literal["all", "last"] = "all"


class RewardPart(PartConfig):
    """Preference pairs, for reward and dpo."""

    max_length: int = Field(1024, ge=8, description="tokens of prompt and answer")
    equal_length: bool = Field(False, description="keep only pairs whose answers have equally many tokens")


class RlPart(PartConfig):
    """Prompts."""

    max_prompt_length: int = Field(512, ge=8, description="tokens; a longer prompt loses its middle")


class Builder(Config):
    """Python code that makes the sources, for examples."""

    function: str = Field(pattern=PATTERN, description="module:function(folder, seed, options)")
    options: dict[str, Any] = Field({}, description="passed on to the function")
    packages: tuple[str, ...] = Field((), description="distributions it reads from")
    versions: dict[str, str] = Field({}, description="their versions; filled in when the configuration is resolved")

    def for_key(self) -> dict[str, Any]:
        """Adds the function's code."""
        return {**super().for_key(), "code": code_digest(self.function)}


class DataConfig(Config):
    """Where each stage's data comes from and how it is cut."""

    heldout: float = Field(0.05, gt=0, lt=1, description="share of the prompts that is held out, in every part")
    split_by: str | None = Field(
        None, description="column whose equal values keep rows on one side of the split, in every part"
    )
    builder: Builder | None = Field(None, description="makes the sources that are not given")
    pretrain: PretrainPart = PretrainPart()
    sft: SftPart = SftPart()
    reward: RewardPart = RewardPart()
    rl: RlPart = RlPart()

    @model_validator(mode="before")
    @classmethod
    def _one_split(cls, values: Any) -> Any:
        """Gives every part the common split, unless it has one of its own."""
        if not isinstance(values, dict):
            return values
        common = {name: values[name] for name in ("heldout", "split_by") if values.get(name) is not None}
        parts = {task: values.get(task) or {} for task in TASKS}
        return {**values, **{task: {**common, **part} for task, part in parts.items() if isinstance(part, dict)}}


# The steps that read each part.
READERS: Mapping[Task, tuple[str, ...]] = {
    "pretrain": ("pretrain",),
    "sft": ("sft",),
    "reward": ("reward", "dpo"),
    "rl": ("rl", "evaluate"),
}


def wanted_parts(settings: Mapping[str, Any]) -> list[Task]:
    """The parts that a run needs, of its configuration: those that a step reads which is on."""
    return [task for task in TASKS if any(settings[step]["enabled"] for step in READERS[task])]


PartT = TypeVar("PartT", bound=PartConfig)


def _spec(task: Task, part: type[PartT]) -> StageSpec[PartT]:
    # Sources are part of the configuration by their content, so the base model is the only input.
    return StageSpec(
        name=f"data-{task}",
        section=f"data.{task}",
        result_version=2,
        config=part,
        inputs={"model": InputSpec(("model",))},
        seeded=False,
    )


SPECS: dict[Task, StageSpec[Any]] = {
    "pretrain": _spec("pretrain", PretrainPart),
    "sft": _spec("sft", SftPart),
    "reward": _spec("reward", RewardPart),
    "rl": _spec("rl", RlPart),
}


def spec_of(task: Task, part: PartConfig) -> StageSpec[Any]:
    """The contract of one part; the seed counts only where rows are drawn, so that other seeds share its dataset."""
    return replace(SPECS[task], seeded=part.draws)
