"""`rlhf run --on kubernetes`: what must be so before pods can do what a person asks for here."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from components.common.config import read_config_file
from components.common.errors import UserError
from components.common.store import is_s3
from components.launcher.cluster import CONFIG_MAPS, SECRETS, ApiError, Cluster
from components.launcher.config import LauncherConfig
from components.names import CONFIG_MAP
from components.prepare.config import RunConfig
from pipelines.cli.parameters import embed_config


def embed_files(parameters: dict[str, str | int]) -> dict[str, str | int]:
    """Puts the text of local configuration files in place of their paths, which no pod could read."""
    preset = Path(str(parameters.get("preset", "")))
    if preset.suffix in (".yaml", ".yml") and preset.is_file():
        read_config_file(str(preset))
        parameters = {**parameters, "preset": f"{preset.read_text(encoding='utf-8')}\n"}  # text by its line ends
    return embed_config(parameters)


def check_paths(config: RunConfig, store: str) -> None:
    """Refuses what is on this machine only.

    Args:
        config: The resolved configuration.
        store: Root of the store.

    Raises:
        UserError: Naming the path, and how pods can have it.
    """
    if not is_s3(store) and not _is_mounted(store, _mounted(config)):
        raise UserError(
            "is a folder of this machine, which pods cannot see",
            where=f"--store {store}",
            hint=f"give s3://BUCKET/PREFIX, or set RLHF_STORE in the ConfigMap {CONFIG_MAP}",
        )
    check_sources(config)


def check_sources(config: RunConfig) -> None:
    """Refuses a model and data that are on this machine only.

    Raises:
        UserError: Naming the path, and how pods can have it.
    """
    sources = {"model": config.model.source}
    for task, part in config.data:
        for index, source in enumerate(getattr(part, "sources", [])):
            sources[f"data.{task}.sources[{index}]"] = source.path
    mounted = _mounted(config)
    for name, path in sources.items():
        if "://" not in path and Path(path).expanduser().exists() and not _is_mounted(path, mounted):
            raise UserError(
                f"{path} is on this machine, where pods cannot read it",
                where=name,
                hint=f"`rlhf put --on kubernetes {path}` brings it into the store: give the URI that it prints",
            )


def check_secret(cluster: Cluster, config: LauncherConfig, store: str) -> None:
    """Sees that pods will find the keys to the store.

    Raises:
        UserError: There is no Secret with them.
    """
    name = config.store.secret
    try:
        cluster.ask("GET", cluster.path(SECRETS, name))
    except ApiError as error:
        if is_s3(store) and error.status == 404:
            keys = " ".join(f"--from-literal={key}=…" for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
            raise UserError(
                "there is no such Secret",
                where=f"{name} (namespace {cluster.namespace})",
                hint=f"kubectl -n {cluster.namespace} create secret generic {name} {keys}",
            ) from error


def pod_endpoint(cluster: Cluster, config: LauncherConfig, ours: str) -> str:
    """The store's endpoint that pods must be told of, where neither configuration nor namespace says it; or nothing.

    Args:
        cluster: The run's namespace.
        config: The run's section `launcher`.
        ours: `AWS_ENDPOINT_URL` as a person has set it here.
    """
    data = (cluster.get(CONFIG_MAPS, CONFIG_MAP) or {}).get("data") or {}
    return "" if config.store.endpoint_url or data.get("AWS_ENDPOINT_URL") else ours


def _mounted(config: RunConfig) -> list[PurePosixPath]:
    return [PurePosixPath(mount["mountPath"]) for mount in config.launcher.volume_mounts]


def _is_mounted(path: str, mounted: list[PurePosixPath]) -> bool:
    whole = PurePosixPath(os.path.abspath(os.path.expanduser(path)))
    return any(whole.is_relative_to(mount) for mount in mounted)
