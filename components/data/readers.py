"""Rows from wherever users keep them: a file, a folder of files, a dataset on the hub."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from components.common.errors import UserError
from components.common.store import local_path
from components.data.formats import SampleBy, is_data, read_file
from components.data.hub import hub_name, hub_rows
from components.data.row import Row

__all__ = ["Row", "SampleBy", "read_rows"]

_SUFFIXES = ".txt, .jsonl, .json or .csv (also with .gz), or .parquet"
_DOCUMENTATION = ("readme", "license", "licence", "_success")  # names without suffix that come along with data


def read_rows(source: str, *, max_samples: int | None = None, sample_by: SampleBy = "auto") -> Iterator[Row]:
    """Reads a source row by row. Everything but a `.json` array is streamed, so memory does not grow with its size.

    - `.jsonl`, `.json`: an object per line or one array of objects, whatever the suffix. NaN is read as null.
    - `.csv`: with a header; every value is text.
    - `.parquet`.
    - `.txt`: documents; `sample_by` says what one is.
    - A folder: all such files below it, sorted by path. Hidden files and README, LICENSE and _SUCCESS, with any
      suffix, are passed over; any other file is an error, lest data be left out unnoticed.
    - `owner/name[:split]` or `hf://owner/name[/config][:split]`: a dataset on the hub; `train` unless said.

    Args:
        source: A path, `file://` and a path, or a name on the hub. What exists locally is never looked for on the hub.
        max_samples: Read only the first so many rows.
        sample_by: What one document of a `.txt` file is: a `line`, a `paragraph` (lines up to the next blank one, cut
            at 1 Mi characters) or the whole file as one `document`, names as in `datasets`. `auto` looks at the first
            thousand lines: paragraphs if every fiftieth or more is blank, as in hard-wrapped prose, else lines. It
            never takes whole files, because held-out rows could then not be taken from a single file: say `document`
            for one book or article per file.

    Raises:
        UserError: There is nothing to read or it is broken; the line is named. Missing, empty and unknown files are
            reported at the call, broken ones when their turn comes.
    """
    return islice(_open(source, sample_by), max_samples)


def _open(source: str, sample_by: SampleBy) -> Iterator[Row]:
    if source.startswith("hf://"):
        name = hub_name(source)
        if name is None:
            raise UserError("not a name on the hub", where=source, hint="write hf://owner/name[/config][:split]")
        return hub_rows(source, name)
    path = local_path(source)
    try:
        exists, is_folder = path.exists(), path.is_dir()
        files = _data_files(path) if is_folder else [path]
        if exists:
            _check(path, files)
            return chain.from_iterable(read_file(file, sample_by) for file in files)
    except OSError as error:
        raise UserError(
            f"cannot be read: {error.strerror}", where=source, hint="mend the path or its rights"
        ) from error
    name = None if is_data(path) else hub_name(source)
    if name is None:
        raise UserError("no such file or folder", where=source, hint="check the path and the directory you are in")
    return hub_rows(source, name)


def _data_files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = ((path, path.relative_to(folder).parts) for path in found)
    seen = [path for path, names in parts if not any(name.startswith(".") for name in names)]
    return [path for path in seen if path.name.lower().partition(".")[0] not in _DOCUMENTATION]


def _check(source: Path, files: list[Path]) -> None:
    if not files:
        raise UserError("the folder has no data files", where=str(source), hint=f"put files in it: {_SUFFIXES}")
    unknown = [str(path) for path in files if not is_data(path)]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise UserError(
            "no format that can be read",
            where=f"{', '.join(unknown[:3])}{more}",
            hint=f"give {_SUFFIXES}; in a folder, move other files away or put a dot before their names",
        )
    for path in files:
        if path.stat().st_size == 0:
            raise UserError("is empty", where=str(path), hint="remove it or write it again")
