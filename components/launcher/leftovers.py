"""What a pipeline's last step removes."""

from __future__ import annotations

import os
import subprocess
import sys


def remove() -> None:
    """Deletes the jobs that this run left on the cluster. Processes of this machine end with their step.

    Raises:
        SystemExit: They could not be deleted; the step is then tried again.
    """
    if os.environ.get("RLHF_LAUNCHER") != "kubernetes":
        return
    command = [sys.executable, "-m", "components.launcher", "cleanup", "--run", os.environ["RLHF_RUN_ID"]]
    status = subprocess.run(command, check=False).returncode
    if status:
        raise SystemExit(status)
