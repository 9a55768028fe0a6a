"""Curves and texts are whole wherever an attempt ended."""

from __future__ import annotations

import json
from pathlib import Path

from components.common.curves import FILE, TEXTS, Curves


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_follows_a_checkpoint_is_written_once(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    with Curves(tmp_path / "first", "rl") as curves:
        curves.write(1, {"loss": 2.0, "kl": float("inf")})
        curves.write_text(1, {"answer": "moo"})
        curves.save(checkpoint)
        curves.write(2, {"loss": 9.0})
        curves.write_text(2, {"answer": "lost"})
    for work in ("first", "second"):  # the same run again, or another
        with Curves(tmp_path / work, "rl", go_on_from=checkpoint) as curves:
            curves.write(2, {"loss": 1.0})
        assert read(tmp_path / work / FILE) == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
        assert read(tmp_path / work / TEXTS) == [{"step": 1, "answer": "moo"}]


def test_tensorboard_has_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for start in (None, checkpoint):
        with Curves(tmp_path / "run", "sft", go_on_from=start) as curves:
            curves.write(1 if start is None else 2, {"loss": 2.0})
            curves.save(checkpoint)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("sft/loss")] == [1, 2]
