# docker buildx bake -f images/docker-bake.hcl           builds all images for this machine's docker
# REGISTRY=… docker buildx bake -f … --push              builds and publishes them
variable "REGISTRY" {
  default = "ghcr.io/rlhf-stack"
}

variable "VERSION" {
  default = "0.1.0"
}

variable "REVISION" {
  default = "unknown"
}

variable "BASE_IMAGE" {
  default = "python:3.11-slim-bookworm"
}

group "default" {
  targets = ["image"]
}

target "image" {
  matrix = {
    target = ["launcher", "data", "pretrain", "sft", "reward", "rl", "dpo", "evaluate"]
  }
  name       = target
  target     = target
  context    = "."
  dockerfile = "images/Dockerfile"
  platforms  = ["linux/amd64"]
  tags       = ["${REGISTRY}/${target}:${VERSION}"]
  args = {
    BASE_IMAGE = BASE_IMAGE
    VERSION    = VERSION
    REVISION   = REVISION
  }
}
