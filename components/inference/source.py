"""Finding a model: any artifact of a store, or a plain Hugging Face folder. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from components.common.artifacts import Artifact, check_stands_on
from components.common.errors import InputError, UserError
from components.common.inputs import find_input, split_uri
from components.common.manifest import Kind
from components.common.tokenizer import prepare_tokenizer, read_tokenizer
from components.merge.adapter import read_adapter

Task = Literal["generate", "score"]


@dataclass(frozen=True)
class ModelSource:
    """Where a model's parts are.

    Attributes:
        artifact: What the user named.
        base: The model below it, if that is an adapter.
    """

    artifact: Artifact
    base: Artifact | None = None

    @property
    def weights(self) -> Path:
        """Folder of the whole model's weights."""
        return (self.base or self.artifact).folder

    @property
    def adapter(self) -> Path | None:
        """Folder of the adapter, if there is one."""
        return self.artifact.folder if self.base else None

    @property
    def identity(self) -> dict[str, str]:
        """Digests of the parts: equal identities are equal models."""
        parts = {"model": self.artifact, "base": self.base}
        return {name: artifact.digest for name, artifact in parts.items() if artifact}


def find_model(uri: str, task: Task, base: str | None = None) -> ModelSource:
    """Finds a model and looks at whether it is whole and made for the task.

    Args:
        uri: An artifact or a plain folder; a model, a reward model or an adapter.
        task: What it is to do.
        base: The model below an adapter, if its manifest does not lead to it.

    Raises:
        InputError: There is no such model, a file is missing or altered, or adapter and base do not belong together.
        UserError: It is a model for another task.
    """
    artifact = find_input("model", uri, get_args(Kind))
    if artifact.kind not in ("model", "reward_model", "adapter"):
        raise InputError(f"is no model but of kind {artifact.kind}", where=uri, hint="check the URI")
    artifact.verify()
    adapter = artifact.kind == "adapter"
    scores = read_adapter(artifact.folder).task_type == "SEQ_CLS" if adapter else artifact.kind == "reward_model"
    if scores and task == "generate":
        raise UserError("is a reward model: it scores answers and writes none", where=uri, hint="use rlhf score")
    if not scores and task == "score":
        raise UserError("is no reward model: it has no score head", where=uri, hint="give what the reward stage made")
    if base and not adapter:
        raise UserError("is a whole model, and --base is for adapters", where=uri, hint="leave --base out")
    return ModelSource(artifact, _find_base(artifact, base) if adapter else None)


def load_source_tokenizer(source: ModelSource, *, needs_template: bool = True) -> Any:
    """Loads the tokenizer that the model was trained with: the adapter's own, if it brings one.

    Args:
        source: The model.
        needs_template: Whether a tokenizer without chat template is an error.

    Raises:
        InputError: There is none.
        UserError: It has no chat template.
    """
    own = source.adapter is not None and (source.adapter / "tokenizer.json").is_file()
    folder = source.artifact.folder if own else source.weights
    tokenizer = read_tokenizer(folder)
    if needs_template and not tokenizer.chat_template:
        raise UserError(
            "has no chat template, so how a conversation is written is not known",
            where=str(folder),
            hint="give a model that was fine-tuned on conversations; rlhf generate --raw continues plain text",
        )
    return prepare_tokenizer(tokenizer)


def _find_base(adapter: Artifact, given: str | None) -> Artifact:
    parent = adapter.manifest.parents.get("model") if adapter.manifest else None
    if given is None and parent is None:
        raise UserError("is an adapter that does not say what it stands on", where=adapter.uri, hint="give --base")
    uri = given or _parent_uri(adapter, parent.uri if parent else "")
    try:
        base = find_input("base", uri, ("model",))
    except InputError as error:
        raise InputError(
            error.what, where=uri, hint="give the model that the adapter was trained on as --base"
        ) from error
    check_stands_on(adapter, base)
    base.verify()
    return base


def _parent_uri(artifact: Artifact, uri: str) -> str:
    """A parent's URI; relative, it lies in the artifact's own store."""
    prefix = split_uri(uri)[1]
    return f"{split_uri(artifact.uri)[0]}/{uri}" if prefix == uri else uri
