"""SIGTERM in pods prints what every thread is at, whoever handles it meanwhile; nobody is killed too soon."""

import argparse
import contextlib
from types import SimpleNamespace

import pytest

from components.common import torchrun
from components.launcher.config import LauncherConfig
from pipelines.cli.driver import GRACE_SECONDS
from tests.support.commands import python

CODE = """
import os, signal
from components.common.signals import on_sigterm
before = on_sigterm(lambda *_: print("first"))
on_sigterm(lambda *_: print("second"))
os.kill(os.getpid(), signal.SIGTERM)
on_sigterm(before)
"""


@pytest.mark.parametrize("stacks", ["", "1"])
def test_the_last_handler_is_called_and_stacks_are_printed_if_wished(stacks):
    result = python("-c", CODE, RLHF_STACKS_ON_SIGTERM=stacks)
    assert result.returncode == 0
    assert result.stdout == "second\n"
    assert ("most recent call first" in result.stderr) == bool(stacks)


def test_whoever_ends_a_stage_waits_as_long_as_a_pod_does(monkeypatch):
    """Of torchrun, which kills its processes half a minute after SIGTERM unless told otherwise, and of `rlhf run`."""
    given = {}

    def popen(command, env, **_):
        given.update(env)
        return contextlib.nullcontext(SimpleNamespace(wait=lambda: 0, poll=lambda: 0))

    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", raising=False)
    monkeypatch.setattr(torchrun.subprocess, "Popen", popen)
    torchrun.run_ranks("rl", argparse.Namespace(nproc=2, nnodes=1, config="c", output="o", input=[], set=[]))
    pod = LauncherConfig().grace_period
    assert pod - 10 <= int(given["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < GRACE_SECONDS
    assert pod <= GRACE_SECONDS
