"""How steps are run. Nothing here can change a result, so no key depends on it."""

from __future__ import annotations

from pydantic import Field

from components.common.config import Config


class LauncherConfig(Config):
    """Processes and retries of the steps."""

    nproc_per_node: int = Field(1, ge=1, description="training processes: one for each GPU of a node")
    omp_num_threads: int | None = Field(
        None, ge=1, description="threads of a training process; by default the machine's cores shared by the processes"
    )
