"""What URIs name: artifacts of a store, and plain Hugging Face folders, known by their content."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path

from components.common.artifacts import Artifact, read_manifest
from components.common.errors import InputError
from components.common.manifest import FileEntry, Kind, canonical_json, list_files
from components.common.store import Store, fetch_uri, is_s3, open_store

UPLOAD = "upload"  # what people put into a store, by hand
STAGES = ("source", UPLOAD, "base", "data", "pretrain", "sft", "reward", "rl", "dpo", "merge", "evaluate")
_ARTIFACT_URI = re.compile(
    rf"(?:(?P<root>.*?)/)?(?P<prefix>artifacts/(?:{'|'.join(STAGES)})(?:-[a-z]+)?/[\w.-]+)(?:/(?P<below>.+))?"
)


def split_uri(uri: str) -> tuple[str, str, str]:
    """Splits an artifact's URI into store root, prefix and what lies below the artifact.

    `/data/store/artifacts/sft/0123abcd/x` gives `/data/store`, `artifacts/sft/0123abcd` and `x`. A URI that names no
    artifact of a known stage gives itself and two empty strings, though it may have `artifacts` somewhere in it.
    """
    found = _ARTIFACT_URI.fullmatch(uri.rstrip("/"))
    if found is None:
        return uri.rstrip("/") or uri, "", ""
    root = "." if found["root"] is None else found["root"] or "/"
    return root, found["prefix"], found["below"] or ""


def find_input(name: str, uri: str, kinds: tuple[Kind, ...]) -> Artifact:
    """Finds an input: an artifact, or a plain Hugging Face folder, which is then known by its content.

    Of an artifact only the manifest is read; its files are fetched when its `folder` is first looked at.

    Raises:
        InputError: There is nothing of an accepted kind.
    """
    root, prefix, below = split_uri(uri)
    artifact = _find_artifact(open_store(root), prefix) if prefix and not below else _plain_folder(name, uri)
    if artifact.kind not in kinds:
        raise InputError(
            f"is of kind {artifact.kind}, the input {name} takes {' or '.join(kinds)}", where=uri, hint="check the URI"
        )
    return artifact


def _find_artifact(store: Store, prefix: str) -> Artifact:
    manifest = read_manifest(store, prefix)
    found = Artifact(
        f"{store.root}/{prefix}",
        partial(store.fetch, prefix),
        manifest.digest,
        manifest.kind,
        manifest,
        store.verifies,
    )
    if manifest.stage != UPLOAD:
        return found

    def verified() -> Path:
        found.verify()
        return found.folder

    # A folder that was put into the store is what it was before: plain, and known by its content.
    return Artifact(found.uri, verified, content_digest(manifest.files), found.kind, verified=True)


def _plain_folder(name: str, uri: str) -> Artifact:
    folder = fetch_uri(uri).absolute()
    kind = plain_kind(folder)
    if kind is None:
        raise InputError(
            f"input {name}: neither an artifact nor a folder with config.json or adapter_config.json",
            where=uri,
            hint="give an artifact URI or a folder that from_pretrained can read",
        )
    named = uri.rstrip("/") if is_s3(uri) else str(folder)
    return Artifact(named, folder, content_digest(list_files(folder)), kind)


def plain_kind(folder: Path) -> Kind | None:
    """What a Hugging Face folder holds, None if it is none."""
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    if not (folder / "config.json").is_file():
        return None
    architectures = (folder / "config.json").read_text(encoding="utf-8")
    return "reward_model" if "ForSequenceClassification" in architectures else "model"


def content_digest(files: tuple[FileEntry, ...]) -> str:
    """Digest of a plain folder: the hash of its files' paths and hashes."""
    return f"sha256:{hashlib.sha256(canonical_json([[f.path, f.sha256] for f in files])).hexdigest()}"
