"""Names of the container images."""

from __future__ import annotations

import os

REGISTRY = "ghcr.io/rlhf-stack"
VERSION = "0.1.0"
LAUNCHER = f"{REGISTRY}/launcher:{VERSION}"

# The image of a step, where its name is not the step's own.
_TARGETS = {"prepare": "pretrain", "merge": "launcher", "report": "launcher"}


def image_of(step: str) -> str:
    """The image that runs a step: `$RLHF_IMAGE`, else `$RLHF_REGISTRY/<target>:$RLHF_VERSION`.

    Args:
        step: A stage, or prepare, data, merge, report. prepare may have to train a model from scratch, so it needs
            what pretrain needs.
    """
    if os.environ.get("RLHF_IMAGE"):
        return os.environ["RLHF_IMAGE"]
    registry = os.environ.get("RLHF_REGISTRY") or REGISTRY
    return f"{registry}/{_TARGETS.get(step, step)}:{os.environ.get('RLHF_VERSION') or VERSION}"
