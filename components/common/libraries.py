"""How libraries are imported: quietly, without what is not used, and without a collection of garbage meanwhile."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def quiet_libraries(*, offline: bool = True) -> None:
    """Settings that libraries read when they are imported: no telemetry, no bars for every file, and no hub.

    Args:
        offline: Whether the hub is out of bounds; only the steps that bring things into the store may ask it.
    """
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **({"HF_HUB_OFFLINE": "1"} if offline else {}),
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "true",
        "TQDM_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)
    # transformers warns of names that TRL, not we, will have to change.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    # bitsandbytes misses a package that fetches kernels from the hub, on CPUs that have bfloat16.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def hide(*packages: str) -> None:
    """Makes packages look as if they were not installed, unless they are loaded already.

    transformers imports torch and datasets wherever it finds them, for work that needs neither, too.
    """
    for package in packages:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]


@contextmanager
def importing() -> Iterator[None]:
    """Leaves garbage alone while libraries are imported, and what they have made for good.

    A million objects that live as long as the process would be looked at again and again: a seventh of the time that
    importing torch and transformers takes, and half a second at every full collection after it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
