"""What the Dockerfile, the bake file and the lock files of the images promise; none is built here."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.util import find_spec

import pytest

from components import images
from tests.images.dockerfile import lineage, read_stages
from tests.support.commands import ROOT

ARGUMENTS, STAGES = read_stages(ROOT / "images" / "Dockerfile")
BAKE = (ROOT / "images" / "docker-bake.hcl").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = json.loads(re.search(r"target = (\[.*\])", BAKE)[1])
CODE = "--from=code /code/ /"


def pins(name):
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines if re.match("[a-z]", line))


def default(name):
    return re.search(rf'variable "{name}" {{\s*default = "(.*)"', BAKE)[1]


def test_bake_builds_every_target_and_nothing_else():
    assert sorted(TARGETS) == sorted(name for name, stage in STAGES.items() if stage.all("ENTRYPOINT"))


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_a_numeric_user_that_is_not_root(target):
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", lineage(STAGES, target).all("USER")[-1])


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_says_what_it_is(target):
    labels = lineage(STAGES, target).pairs("LABEL")
    assert {name.removeprefix("org.opencontainers.image.") for name in labels} == {
        "title",
        "description",
        "licenses",
        "version",
        "revision",
    }
    assert labels["org.opencontainers.image.title"] == f"rlhf-stack {target}"
    assert labels["org.opencontainers.image.licenses"] == PROJECT["license"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_starts_what_it_is_called(target):
    (entry,) = STAGES[target].all("ENTRYPOINT")
    # In the same stage and after it: ENTRYPOINT forgets the CMD that a stage inherits.
    assert STAGES[target].steps[-1] == ("CMD", '["--help"]')
    program, *rest = json.loads(entry)
    if target == "launcher":
        assert program in PROJECT["scripts"]
    else:
        assert (program, rest) == ("python", ["-m", f"components.{target}"])
        assert find_spec(f"{rest[1]}.__main__")


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_holds_packages_and_code_but_no_tools(target):
    stage = lineage(STAGES, target)
    assert stage.base == "${BASE_IMAGE}"
    assert not [step for step in stage.all("RUN") if re.search(r"apt|gcc|build-essential|curl|wget|git\b", step)]
    assert stage.all("COPY") == [CODE]


@pytest.mark.parametrize("target", TARGETS)
def test_packages_come_before_code_so_that_a_change_of_code_is_one_small_layer(target):
    kinds = [kind for kind, _ in lineage(STAGES, target).steps if kind in ("RUN", "COPY")]
    assert kinds == ["RUN"] * (len(kinds) - 1) + ["COPY"]
    installs = [step for step in lineage(STAGES, target).all("RUN") if " install " in step]
    assert installs
    assert all("--require-hashes" in step for step in installs)


def test_targets_of_training_differ_in_name_only():
    training = [name for name in TARGETS if STAGES[name].base == "train"]
    assert {*TARGETS} - {*training} == {"launcher", "data"}
    assert {kind for name in training for kind, _ in STAGES[name].steps} == {"LABEL", "ENTRYPOINT", "CMD"}


def test_lock_files_add_to_each_other():
    launcher, data, train, dev = map(pins, ("launcher", "data", "train", "dev"))
    assert launcher.items() < data.items() < train.items() < dev.items()


@pytest.mark.parametrize("name", ["launcher", "data"])
def test_small_images_hold_no_torch(name):
    assert not [package for package in pins(name) if package.startswith(("torch", "nvidia", "cuda", "triton"))]


def test_versions_and_names_are_the_same_everywhere():
    versions = {default("VERSION"), PROJECT["version"], images.VERSION}
    for stage in STAGES.values():
        versions |= {step.partition("=")[2] for step in stage.all("ARG") if step.startswith("VERSION=")}
    assert len(versions) == 1
    assert default("REGISTRY") == images.REGISTRY
    assert default("BASE_IMAGE") == ARGUMENTS["BASE_IMAGE"]


def test_the_context_has_what_the_dockerfile_reads():
    allowed = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    sources = {
        source
        for stage in STAGES.values()
        for step in stage.all("COPY")
        for source in step.split()[:-1]
        if step != CODE
    }
    sources |= {
        path.split("/")[0]
        for stage in STAGES.values()
        for step in stage.all("RUN")
        for path in re.findall(r"source=([^/,][^,]*)", step)
    }
    assert sources == {*allowed}
    assert all((ROOT / source).exists() for source in sources)
