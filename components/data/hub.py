"""Rows of a dataset on the Hugging Face hub, through `datasets`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from components.common.errors import UserError
from components.data.row import Row

_PART = r"\w[\w.-]*"
_BARE = re.compile(rf"(?P<path>{_PART}/{_PART})(?P<config>)(?::(?P<split>[\w.]+))?")
_URI = re.compile(rf"hf://(?:datasets/)?(?P<path>{_PART}/{_PART})(?:/(?P<config>{_PART}))?(?::(?P<split>[\w.]+))?")


@dataclass(frozen=True)
class HubName:
    """What `datasets.load_dataset` is asked for."""

    path: str
    config: str | None
    split: str


def hub_name(source: str) -> HubName | None:
    """Reads `owner/name[:split]` or `hf://owner/name[/config][:split]`; None when it is neither."""
    match = _URI.fullmatch(source) or _BARE.fullmatch(source)
    if match is None:
        return None
    return HubName(match["path"], match["config"] or None, match["split"] or "train")


def hub_rows(source: str, name: HubName) -> Iterator[Row]:
    """Streams a dataset; offline (`HF_HUB_OFFLINE`) it is read from the cache, which streaming cannot use.

    Args:
        source: What the user wrote, for messages.
        name: The same, read by `hub_name`.

    Raises:
        UserError: The dataset, its config or its split cannot be had.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "reading from the hub needs datasets", where=source, hint="install rlhf-stack[train]"
        ) from error
    number = 0
    try:
        streaming = not datasets.config.HF_HUB_OFFLINE
        for value in datasets.load_dataset(name.path, name.config, split=name.split, streaming=streaming):
            number += 1
            yield Row(f"{source} row {number}", dict(value))
    except Exception as error:  # the hub's clients raise of every kind: their own, fsspec's, the HTTP library's
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"no local file, and the hub does not give it: {reason}",
            where=f"{source} after row {number}" if number else source,
            hint="check name, config, split, network and HF_TOKEN, or give a local path",
        ) from error
    if number == 0:
        raise UserError("has no rows", where=source, hint="choose another split")


def dataset_revision(source: str) -> str:
    """The commit of a dataset, which stands for its content; `cached` offline, where only a copy can be read.

    Raises:
        UserError: This is no name of a dataset, or the hub does not know it.
    """
    name = hub_name(source)
    if name is None:
        raise UserError("no such file", where=source, hint="give a file, a folder, or owner/name[:split] on the hub")
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HfHubHTTPError

    if HF_HUB_OFFLINE:
        return "cached"
    try:
        return str(HfApi().dataset_info(name.path).sha)
    except (HfHubHTTPError, OSError) as error:
        raise UserError(
            f"no local file, and the hub does not give it: {type(error).__name__}",
            where=source,
            hint="check name, network and HF_TOKEN, or give a local path",
        ) from error
