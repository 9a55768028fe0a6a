"""The page's section on lineage, and the run's record: which artifact was made from which."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from components.common.inputs import split_uri
from components.report import formats
from components.report.collect import ArtifactData, RunData
from components.report.verdict import judge, title

RECORD_SCHEMA = 1


@dataclass(frozen=True)
class ParentView:
    """An input: its name, its digest, and what it is if the report knows it."""

    name: str
    digest: str
    title: str
    anchor: str


@dataclass(frozen=True)
class ArtifactView:
    """A row of the lineage table."""

    anchor: str
    title: str
    kind: str
    digest: str
    uri: str
    size: str
    parents: list[ParentView]

    @property
    def short(self) -> str:
        """The digest, shortened."""
        return formats.short_digest(self.digest)


def artifact_views(run: RunData) -> list[ArtifactView]:
    """All artifacts, parents before children."""
    known = {artifact.prefix: artifact for artifact in run.lineage}
    return [_view(artifact, known) for artifact in run.lineage]


def run_record(run: RunData) -> dict[str, Any]:
    """The run as one JSON object: each step with its state, time, error, and artifacts with digests and parents."""
    verdict = judge(run)
    return {
        "schema_version": RECORD_SCHEMA,
        "run_id": run.run_id,
        "config": run.config_uri,
        "verdict": {"tone": verdict.tone, "sentence": verdict.sentence},
        "steps": [
            {
                **({"step": step.name, "state": step.state} if step.record is None else asdict(step.record)),
                "artifacts": [_artifact_record(artifact) for artifact in step.artifacts],
            }
            for step in run.steps
            if step.name != "report"
        ],
    }


def made_by(artifact: ArtifactData) -> str:
    """What made an artifact, in words."""
    stage = artifact.manifest.stage
    return title(artifact.step if stage == "merge" and artifact.step else stage)


def _view(artifact: ArtifactData, known: dict[str, ArtifactData]) -> ArtifactView:
    manifest = artifact.manifest
    parents = []
    for name, parent in manifest.parents.items():
        there = known.get(split_uri(f"/{parent.uri}")[1])
        parents.append(
            ParentView(
                name.replace("_", " "),
                formats.short_digest(parent.digest),
                made_by(there) if there else parent.uri,
                _anchor(there) if there else "",
            )
        )
    return ArtifactView(
        anchor=_anchor(artifact),
        title=made_by(artifact),
        kind=manifest.kind.replace("_", " "),
        digest=manifest.digest,
        uri=artifact.uri,
        size=formats.size(sum(file.size for file in manifest.files)),
        parents=parents,
    )


def _artifact_record(artifact: ArtifactData) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "uri": artifact.uri,
        "kind": manifest.kind,
        "digest": manifest.digest,
        "parents": {name: parent.model_dump() for name, parent in manifest.parents.items()},
    }


def _anchor(artifact: ArtifactData) -> str:
    return f"artifact-{artifact.manifest.stage}-{artifact.manifest.key}"
