"""Names of the container images."""

REGISTRY = "ghcr.io/rlhf-stack"
VERSION = "0.1.0"
LAUNCHER = f"{REGISTRY}/launcher:{VERSION}"
