"""A watch on float16: an overflow now and then is how a gradient scaler finds its scale, many in a row are a fault."""

from __future__ import annotations

from components.common.errors import UserError

# From its first scale of 65536 a scaler needs 16 halvings to reach 1: whoever overflows then will not stop to.
PATIENCE = 25


class OverflowWatch:
    """Counts optimizer steps in a row that were skipped because a gradient had no finite value.

    Args:
        stage: Name of the stage, for the message.
    """

    def __init__(self, stage: str) -> None:
        self._stage, self._in_a_row = stage, 0

    def step(self, *, skipped: bool) -> None:
        """Notes a step.

        Raises:
            UserError: Too many in a row were skipped: nothing is being learnt.
        """
        self._in_a_row = self._in_a_row + 1 if skipped else 0
        if self._in_a_row == PATIENCE:
            raise UserError(
                f"{PATIENCE} steps in a row were skipped: their gradients overflow float16",
                where=self._stage,
                hint=f"lower {self._stage}.learning_rate, or use a GPU of compute capability 8.0 or more",
            )
