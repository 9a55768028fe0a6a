"""This machine: Python, packages, memory, disk, and which `kfp` answers to its name."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from pipelines.doctor.finding import Finding, State

DISTRIBUTION = "rlhf-stack"
GIB = 2**30
LEAST_MEMORY, LEAST_DISK = 4 * GIB, 10 * GIB  # what `make demo` is comfortable with


def check_python() -> Iterator[Finding]:
    """Whether this Python is one that the package supports."""
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        yield Finding("Python", "ok", version)
    else:
        yield Finding("Python", "failed", f"{version} is not supported", "make an environment with Python 3.11 or 3.12")


def check_packages() -> Iterator[Finding]:
    """Whether what the package asks for is installed in the versions it asks for."""
    try:
        own, training = _wanted(""), _wanted("train")
    except metadata.PackageNotFoundError:
        remedy = "pip install -e '.[train]' in its clone"
        yield Finding("packages", "warning", f"{DISTRIBUTION} is not installed", remedy)
        return
    yield from _packages("packages", own, "failed", "pip install -e .")
    yield from _packages("training", training, "warning", "to train on this machine: pip install -e '.[train]'")


def _wanted(extra: str) -> list[Requirement]:
    """What the package asks for, of an extra what comes on top, through extras that name each other."""
    lines = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    always = [line for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    asked = [line for line in lines if line not in always and line.marker and line.marker.evaluate({"extra": extra})]
    nested = [found for line in asked if line.name == DISTRIBUTION for name in line.extras for found in _wanted(name)]
    return [line for line in asked if line.name != DISTRIBUTION] + nested


def _packages(name: str, wanted: list[Requirement], bad: State, remedy: str) -> Iterator[Finding]:
    found, faults = [], []
    for requirement in wanted:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            faults.append(f"{requirement.name} is missing")
            continue
        found.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            faults.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if faults:
        yield Finding(name, bad, ", ".join(faults), remedy)
    else:
        yield Finding(name, "ok", ", ".join(found))


def check_memory() -> Iterator[Finding]:
    """Memory that a process can still have."""
    text = Path("/proc/meminfo").read_text(encoding="utf-8") if Path("/proc/meminfo").exists() else ""
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    if found is None:
        return
    free = int(found[1]) * 1024
    cores = len(os.sched_getaffinity(0))
    what = f"{free / GIB:.1f} GiB free, {cores} core{'s' if cores > 1 else ''}"
    if free >= LEAST_MEMORY:
        yield Finding("memory", "ok", what)
    else:
        yield Finding("memory", "warning", what, f"the example takes {LEAST_MEMORY // GIB} GiB: close something")


def check_disk(folder: Path) -> Iterator[Finding]:
    """Room where results would be kept."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    what = f"{free / GIB:.1f} GiB free in {there}"
    if free >= LEAST_DISK:
        yield Finding("disk", "ok", what)
    else:
        yield Finding("disk", "warning", what, "a model and its adapters take gigabytes: give --store another disk")


def check_kfp() -> Iterator[Finding]:
    """Which `kfp` is first on PATH: ours also understands `run submit FILE.py`."""
    path = shutil.which("kfp")
    if path is None:
        yield Finding("kfp", "warning", "is not on PATH", "use `rlhf submit`, or put this environment's bin on PATH")
        return
    ours = Path(sys.executable).parent / "kfp"
    if Path(path).exists() and ours.exists() and Path(path).samefile(ours) and _is_ours(Path(path)):
        yield Finding("kfp", "ok", f"{path} understands `run submit FILE.py`")
    else:
        remedy = f"use `rlhf submit`, or put {ours.parent} first on PATH"
        yield Finding("kfp", "warning", f"{path} is the stock command", remedy)


def _is_ours(path: Path) -> bool:
    return "pipelines.cli" in path.read_text(encoding="utf-8", errors="replace")
