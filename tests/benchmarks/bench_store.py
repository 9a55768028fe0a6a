"""Up- and download of 2 GB, in one file and in 2,000, against boto3 with its transfer manager, on one MinIO server.

    python -m tests.benchmarks.bench_store [--runs 3] [--gigabytes 2] [--files 2000] [--folder DIR] [--output DIR]

The server is a process of this machine (`RLHF_MINIO`, or what the test cluster has built). Ours publishes an artifact
and fetches it into an empty cache, with the hash of every byte compared on the way; boto3 hands all files to one
transfer manager with its defaults, and compares nothing. boto3 has an environment of its own, which is made in --folder
(requirements/boto3.txt beside this file).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from tests.benchmarks.goals import Goal
from tests.benchmarks.harness import Figures, Table, measure, take_turns, write_results
from tests.support.minio import MinioServer, find_minio

BUCKET = "bench"
PREFIX = "artifacts/bench/{number}"


def ours_up(folder: Path, number: str) -> None:
    """Publishes a folder as an artifact; its manifest lists the files, whose hashes a stage has computed before."""
    from components.common.s3 import S3Store

    S3Store(f"s3://{BUCKET}").publish(folder, PREFIX.format(number=number))


def ours_down(_: Path, number: str) -> None:
    """Fetches the artifact into an empty cache."""
    from components.common.s3 import S3Store

    S3Store(f"s3://{BUCKET}").fetch(PREFIX.format(number=number))


def boto3_up(folder: Path, number: str) -> None:
    """Uploads all files of a folder."""
    manager = _transfer_manager()
    with manager:
        for path in sorted(folder.rglob("*")):
            manager.upload(str(path), BUCKET, f"boto3/{number}/{path.name}")


def boto3_down(folder: Path, number: str) -> None:
    """Downloads them."""
    manager = _transfer_manager()
    with manager:
        for path in sorted(folder.rglob("*")):
            manager.download(BUCKET, f"boto3/{number}/{path.name}", str(folder.parent / "out" / path.name))


def _transfer_manager():  # type: ignore[no-untyped-def]
    import boto3
    from s3transfer.manager import TransferManager

    return TransferManager(boto3.client("s3"))


CHILDREN: dict[str, Callable[[Path, str], None]] = {
    "ours-up": ours_up,
    "ours-down": ours_down,
    "boto3-up": boto3_up,
    "boto3-down": boto3_down,
}


def child(name: str, folder: Path, number: str, report: Path) -> None:
    """Does one transfer, and leaves the most memory that it had."""
    CHILDREN[name](folder, number)
    report.write_text(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def build(folder: Path, size: int, count: int) -> None:
    """Writes random files and their manifest."""
    from components.common.manifest import Manifest, list_files

    folder.mkdir(parents=True)
    for index in range(count):
        with (folder / f"{index:04d}.bin").open("wb") as file:
            for _ in range(0, size // count, 1 << 20):
                file.write(os.urandom(min(1 << 20, size // count)))
    manifest = Manifest(kind="model", stage="bench", key="bench", files=list_files(folder))
    (folder / "manifest.json").write_bytes(manifest.canonical())


def boto3_python(folder: Path) -> str:
    """The interpreter of boto3's environment, which is made if it is not there."""
    venv = folder / "venv"
    if not (venv / "complete").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        requirements = Path(__file__).parent / "requirements" / "boto3.txt"
        pip = [str(venv / "bin" / "python"), "-m", "pip", "--quiet", "install", "--require-hashes"]
        subprocess.run([*pip, "-r", str(requirements)], check=True)
        (venv / "complete").touch()
    return str(venv / "bin" / "python")


def transfer(server: MinioServer, python: str, name: str, folder: Path, number: int) -> Figures:
    """One transfer in a process of its own; what a download writes is removed."""
    cache, report = folder.parent / "cache", folder.parent / "report.json"
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(folder.parent / "out", ignore_errors=True)
    (folder.parent / "out").mkdir()
    mine = folder
    if name == "ours-up":  # publishing moves the folder away
        mine = cache / "scratch" / folder.name
        mine.mkdir(parents=True)
        for path in folder.iterdir():
            os.link(path, mine / path.name)
    arguments = ["--child", name, "--folder", str(mine), "--number", f"{folder.name}-{number}", "--report", str(report)]
    os.sync()
    cost = measure(
        [python, "-m", "tests.benchmarks.bench_store", *arguments],
        **server.environment(),
        AWS_REGION="us-east-1",
        AWS_DEFAULT_REGION="us-east-1",
        RLHF_CACHE=str(cache),
    )
    return {**asdict(cost), "rss_mb": json.loads(report.read_text())}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where boto3's environment is kept from run to run")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--number", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.folder, arguments.number, arguments.report)
        return
    with tempfile.TemporaryDirectory() as temporary:
        tables = compare(arguments.folder or Path(temporary), Path(temporary), arguments)
    write_results(arguments.output, "store", tables)


def compare(kept: Path, temporary: Path, arguments: argparse.Namespace) -> list[Table]:
    """Runs all contestants, with a server for each number of files, so that the disk need not hold all of them."""
    binary = find_minio()
    if binary is None:
        raise SystemExit("no MinIO: set RLHF_MINIO, or run tests/cluster/images minio")
    pythons = {"boto3": boto3_python(kept), "ours": sys.executable}
    tables = []
    for title, count in (("one file", 1), (f"{arguments.files} files", arguments.files)):
        work = temporary / str(count)
        server = MinioServer(binary, work / "minio" / "data")
        server.start()
        try:
            tables += up_and_down(server, pythons, title, work / "files" / str(count), arguments)
        finally:
            server.stop()
        shutil.rmtree(work)
    return tables


def up_and_down(
    server: MinioServer, pythons: dict[str, str], title: str, folder: Path, arguments: argparse.Namespace
) -> list[Table]:
    """Compares uploads of a folder's files, and then their downloads."""
    os.environ.update(server.environment())
    from components.common.s3_uris import create_bucket

    create_bucket(f"s3://{BUCKET}")
    build(folder, int(arguments.gigabytes * 2**30), int(folder.name))
    tables = []
    for way, word in (("up", "Upload"), ("down", "Download")):
        contestants = {
            peer: partial(transfer, server, interpreter, f"{peer}-{way}", folder)
            for peer, interpreter in pythons.items()
        }
        runs = take_turns(contestants, arguments.runs)
        table = Table(f"{word} of {arguments.gigabytes:g} GiB in {title}", runs, "wall_s")
        goals = [
            Goal("times as fast as boto3", table.ratio("ours", "wall_s"), at_least=1),
            Goal("MB of memory", table.median("ours", "rss_mb"), at_most=200),
        ]
        tables.append(replace(table, goals=goals))
    return tables


if __name__ == "__main__":
    main()
