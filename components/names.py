"""What the chart calls the things that it makes in a namespace, and which variables are in them."""

from __future__ import annotations

CONFIG_MAP = "rlhf-stack"
SECRET = "rlhf-store"
LAUNCHER_ACCOUNT = "rlhf-launcher"  # may make training jobs
STAGE_ACCOUNT = "rlhf-stage"  # may do nothing
IN_CONFIG_MAP = ("RLHF_STORE", "AWS_ENDPOINT_URL", "AWS_REGION", "RLHF_REGISTRY", "RLHF_VERSION", "RLHF_IMAGE")
IN_SECRET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
