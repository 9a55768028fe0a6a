"""What the merge step can be told, and what it declares to the stage contract."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field

from components.common.config import Config, Neutral
from components.common.stage import InputSpec, StageSpec


class MergeConfig(Config):
    """Adds a LoRA adapter to its base model and writes a plain Hugging Face folder.

    Attributes:
        dtype: Type of the merged weights. `keep` leaves every tensor the type it has in the base; a conversion is
            refused when a value would become infinite.
        workers: Threads that compute; the result is the same for any number. Default: one per core, at most 4.
    """

    dtype: Literal["keep", "float16", "float32"] = "keep"
    workers: Annotated[int | None, Field(ge=1, le=64), Neutral()] = None

    def thread_count(self) -> int:
        """`workers`, or this machine's default."""
        return self.workers or min(4, os.cpu_count() or 1)


SPEC = StageSpec(
    name="merge",
    result_version=2,
    config=MergeConfig,
    inputs={"base": InputSpec(("model",)), "adapter": InputSpec(("adapter",))},
    seeded=False,
)
