"""What a source of data is: a file, a folder, a name on the hub; and what it is refused for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from components.common.errors import UserError
from components.data.hub import HubName, hub_name
from components.data.readers import Row, read_rows
from tests.support.source_files import places, write


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("nowhere/data.jsonl", "no such file or folder"),
        ("./nowhere/data", "no such file or folder"),
        ("/nowhere", "no such file or folder"),
        ("a/b/c", "no such file or folder"),
        ("x" * 5000, "cannot be read: File name too long"),
        ("hf://owner", "not a name on the hub"),
        ("hf://owner/name/config/more", "not a name on the hub"),
        ("s3://bucket/data", "no store for s3://"),
    ],
)
def test_a_source_that_is_not_there_is_refused_at_once(source: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(source)
    assert caught.value.what == what
    assert caught.value.where == source


def test_a_folder_is_read_in_order_of_paths(tmp_path: Path) -> None:
    write(tmp_path, "b.jsonl", '{"n": 3}\n')
    write(tmp_path, "a/z.txt.gz", "text\n")
    write(tmp_path, "a/y.csv", "n\n1\n")
    write(tmp_path, ".git/config.json", "no JSON")
    write(tmp_path, "a/.hidden.jsonl", "no JSON")
    for name in ("README.md", "a/LICENSE", "a/readme.txt", "_SUCCESS"):
        write(tmp_path, name, "not data")
    assert places(read_rows(str(tmp_path)), tmp_path) == [
        ("a/y.csv line 2", {"n": "1"}),
        ("a/z.txt.gz line 1", "text"),
        ("b.jsonl line 1", {"n": 3}),
    ]
    assert len(list(read_rows(f"file://{tmp_path}", max_samples=2))) == 2


def test_a_folder_with_other_files_is_refused_by_their_names(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", "{}\n")
    for name in ("b.xlsx", "c.jsonl.zst", "d", "e.parquet.gz"):
        write(tmp_path, name, "x")
    with pytest.raises(UserError, match="no format that can be read") as caught:
        read_rows(str(tmp_path))
    assert caught.value.where == f"{tmp_path}/b.xlsx, {tmp_path}/c.jsonl.zst, {tmp_path}/d and 1 more"


def test_a_folder_without_data_and_one_with_an_empty_file(tmp_path: Path) -> None:
    write(tmp_path, "README.md", "not data")
    with pytest.raises(UserError, match="the folder has no data files"):
        read_rows(str(tmp_path))
    write(tmp_path, "a.jsonl", "{}\n")
    write(tmp_path, "b.jsonl", "")
    with pytest.raises(UserError, match=r"b\.jsonl: is empty"):
        read_rows(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("owner/some-data", HubName("owner/some-data", None, "train")),
        ("owner/data.v2:test", HubName("owner/data.v2", None, "test")),
        ("hf://owner/data", HubName("owner/data", None, "train")),
        ("hf://datasets/owner/data:a.b", HubName("owner/data", None, "a.b")),
        ("hf://owner/data/main:test", HubName("owner/data", "main", "test")),
        ("owner/data/main", None),
        ("../data", None),
        ("/owner/data", None),
        ("data", None),
        ("owner/data:", None),
    ],
)
def test_names_on_the_hub(source: str, name: HubName | None) -> None:
    assert hub_name(source) == name


@pytest.mark.parametrize("offline", [False, True])
def test_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    asked = []

    def load(*args: object, **options: object) -> list[dict[str, int]]:
        asked.append((args, options))
        return [{"a": 1}, {"a": 2}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    rows = list(read_rows("hf://owner/data/main:test"))
    assert rows == [Row(f"hf://owner/data/main:test row {n}", {"a": n}) for n in (1, 2)]
    assert asked == [(("owner/data", "main"), {"split": "test", "streaming": not offline})]


def test_what_exists_locally_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "owner/data/a.jsonl", '{"a": 1}\n')
    monkeypatch.chdir(tmp_path)
    assert list(read_rows("owner/data")) == [Row("owner/data/a.jsonl line 1", {"a": 1})]


def broken_off() -> Iterator[dict[str, int]]:
    yield {"a": 1}
    raise RuntimeError("cut\nin two")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (
            lambda: (_ for _ in ()).throw(ConnectionError("Couldn't reach it")),
            "owner/data: .*: Couldn't reach it; check",
        ),
        (broken_off, "owner/data after row 1: .*: cut; check"),
        (list, "owner/data: has no rows; choose another split"),
    ],
)
def test_a_dataset_that_the_hub_does_not_give(
    monkeypatch: pytest.MonkeyPatch, load: Callable[[], Any], message: str
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: load())
    with pytest.raises(UserError, match=message):
        list(read_rows("owner/data"))


@pytest.mark.parametrize(("module", "source"), [("pyarrow", "a.parquet"), ("datasets", "owner/data")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, source: str) -> None:
    write(tmp_path, "a.parquet", "x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(UserError, match=rf"needs {module}; install rlhf-stack\[train\]"):
        list(read_rows(source))
