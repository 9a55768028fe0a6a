"""`python -m components.report --config <store>/runs/<run id>/config.yaml`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence

from components.common.entry import input_pair
from components.common.guard import guarded
from components.common.logs import say
from components.common.store import Store
from components.launcher.record import Run, StepRecord


def main(argv: Sequence[str] | None = None) -> int:
    """Writes a run's report from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m components.report",
        description="Write a run's page, record and model card. A run that failed or is still going has them too.",
    )
    parser.add_argument("--config", required=True, metavar="URI", help="<store>/runs/<run id>/config.yaml")
    parser.add_argument(
        "--step",
        type=input_pair,
        action="append",
        default=[],
        metavar="NAME=URI",
        help="result of a step that was not run by the launcher, which would have recorded it; may be repeated",
    )
    arguments = parser.parse_args(argv)
    return guarded(lambda: _main(arguments.config, dict(arguments.step)))


def _main(config_uri: str, results: Mapping[str, str]) -> int:
    # Imported here, so that --help needs neither pydantic nor jinja2.
    from components.report.card import model_card
    from components.report.collect import collect
    from components.report.lineage import run_record
    from components.report.page import render

    _record(Run.of_config(config_uri), results)
    run = collect(config_uri)
    folder = f"runs/{run.run_id}"
    store: Store = Run.of_config(run.config_uri).store
    store.write(f"{folder}/record.json", (json.dumps(run_record(run), indent=2, ensure_ascii=False) + "\n").encode())
    store.write(f"{folder}/report/index.html", render(run, time.time()).encode())
    card = model_card(run)
    if card:
        store.write(f"{folder}/report/MODEL_CARD.md", card.encode())
    say("report", f"{store.root}/{folder}/report/index.html")
    return 0


def _record(run: Run, results: Mapping[str, str]) -> None:
    """Records results of steps of which the run knows nothing, in the order given."""
    for name, uri in results.items():
        if run.step(name) is None:
            run.write(StepRecord(name, name.partition("-")[0], "done", time.time(), uri=uri))


if __name__ == "__main__":
    sys.exit(main())
