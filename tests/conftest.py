"""Fixtures of all tests. One thread a process: two spinning threads on a busy machine cost twenty times as much."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.pop("RLHF_TERMINATION_LOG", None)

import pytest


@pytest.fixture(scope="session")
def tokenizer():
    """A small tokenizer with ChatML, made from the toy world's words."""
    from components.prepare.scratch import make_tokenizer
    from tests.support import toy

    words = [*toy.ANIMALS, *toy.SAYS, *toy.PLACES, *toy.NAMES, "What did", "the", "say?", "said", "shouted"]
    return make_tokenizer([" ".join(words)] * 20, 400)
