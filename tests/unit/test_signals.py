"""SIGTERM in pods prints what every thread is at, whoever handles it meanwhile."""

import pytest

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
