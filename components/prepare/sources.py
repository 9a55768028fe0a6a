"""Sources that Python code makes: the examples' data."""

from __future__ import annotations

from components.common.errors import UserError
from components.common.functions import load_function
from components.common.stage import Job, Result
from components.data.config import Builder


def run(job: Job[Builder]) -> Result:
    """Calls the builder on the artifact's folder."""
    builder = load_function(job.config.function)
    builder(job.out, job.seed, job.config.options)
    files = [path for path in job.out.rglob("*") if path.is_file()]
    if not files:
        raise UserError("wrote no files", where=job.config.function)
    return Result("source", {"files": len(files), "bytes": sum(path.stat().st_size for path in files)})
