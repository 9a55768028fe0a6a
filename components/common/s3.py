"""A store in a bucket.

An artifact's files lie in a folder that is named after its manifest, `<prefix>/<hash of manifest.json>/…`: whoever
writes to that folder writes the same. So two runs that make the same artifact at once, and what a killed one left,
never mix, and the manifest, which is written last and only if there is none, is what makes one of them the artifact.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path, PurePath

from components.common.artifacts import read_manifest
from components.common.cache import adopt, cache_root, fetched
from components.common.directory_store import DirectoryStore
from components.common.errors import InputError, UserError
from components.common.s3_access import Access
from components.common.s3_bucket import Bucket, Entry
from components.common.s3_download import Wanted, download
from components.common.s3_upload import upload
from components.common.store import MANIFEST, split_s3

_IN_ARTIFACT = re.compile(r"(?P<prefix>(?:.*/)?artifacts/[\w-]+/[\w.-]+)(?:/(?P<below>.+))?")


class S3Store:
    """A store in a bucket, or below a prefix in one.

    Args:
        root: `s3://bucket` or `s3://bucket/prefix`.

    Raises:
        UserError: The root names no bucket, or the environment does not say how to reach it.
    """

    verifies = True

    def __init__(self, root: str) -> None:
        bucket, self._prefix = split_s3(root)
        self.root = "/".join(filter(None, (bucket, self._prefix)))
        name = bucket.removeprefix("s3://")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", name):
            raise UserError(
                f"{name!r} is no name for a bucket", where=root, hint="write s3://BUCKET or s3://BUCKET/PREFIX"
            )
        self.bucket = Bucket(name, Access.from_environment())

    def exists(self, path: str) -> bool:
        try:
            return self.bucket.head(self.key(path)) is not None
        except InputError:  # below an artifact that is not there
            return False

    def read(self, path: str) -> bytes:
        content = self.bucket.get(self.key(path))
        if content is None:
            raise InputError("no such file", where=f"{self.root}/{path}")
        return content

    def write(self, path: str, content: bytes) -> None:
        self.bucket.put(self._plain_key(path), content)

    def files(self, prefix: str) -> list[str]:
        above = f"{self._prefix}/" if self._prefix else ""
        folder = f"{self._plain_key(prefix)}/" if prefix else above
        return [entry.key.removeprefix(above) for entry in self.bucket.entries(folder)]

    def fetch(self, prefix: str) -> Path:
        found = _IN_ARTIFACT.fullmatch(prefix)
        if found is None:
            return self._fetch_plain(prefix)
        folder = self._fetch_artifact(found["prefix"])
        wanted = folder / (found["below"] or "")
        if not wanted.exists():
            raise InputError("the artifact has no such file or folder", where=f"{self.root}/{prefix}")
        return wanted

    def publish(self, folder: Path, prefix: str) -> bool:
        manifest = (folder / MANIFEST).read_bytes()
        digest = hashlib.sha256(manifest).hexdigest()
        data, commit = f"{self._plain_key(prefix)}/{_short(digest)}", f"{self._plain_key(prefix)}/{MANIFEST}"
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        del paths[MANIFEST]
        present = {entry.key: entry.size for entry in self.bucket.entries(f"{data}/")}
        files = {f"{data}/{name}": path for name, path in paths.items()}
        upload(self.bucket, files, what=prefix, present=present)
        # The answer to a request that was made twice may be that it has been fulfilled already.
        if not self.bucket.put(commit, manifest, only_new=True) and self.bucket.get(commit) != manifest:
            self.bucket.remove(files)
            return False
        if not any(path.is_symlink() for path in paths.values()):  # those of an upload are people's own files
            (folder / MANIFEST).unlink()
            adopt(digest, folder)
        return True

    def scratch(self) -> Path:
        return DirectoryStore(cache_root()).scratch()

    def remove(self, path: str) -> None:
        self.bucket.remove([self._plain_key(path)])

    def remove_folder(self, prefix: str) -> None:
        self.bucket.remove([entry.key for entry in self.bucket.entries(f"{self._plain_key(prefix)}/")])

    def folder(self, prefix: str) -> AbstractContextManager[Path]:
        from components.common.mirror import mirrored

        return mirrored(self.bucket, self._plain_key(prefix), self.local(prefix))

    def work(self, prefix: str, *, writes: bool) -> AbstractContextManager[Path]:
        from components.common.mirror import work_folder

        return work_folder(self.bucket, self._plain_key(prefix), self.local(prefix), writes=writes)

    def local(self, prefix: str) -> Path:
        """The folder of this machine that stands for a folder of the store."""
        return cache_root() / "local" / hashlib.sha256(self.root.encode()).hexdigest()[:12] / prefix

    def key(self, path: str) -> str:
        """The key of a file's object.

        Raises:
            InputError: It is a file of an artifact that is not there.
        """
        found = _IN_ARTIFACT.fullmatch(path)
        if found is None or found["below"] in (None, MANIFEST):
            return self._plain_key(path)
        digest = hashlib.sha256(self._manifest(found["prefix"])).hexdigest()
        return f"{self._plain_key(found['prefix'])}/{_short(digest)}/{found['below']}"

    def fingerprint(self, path: str) -> str:
        """A hash of the names, sizes and entity tags of a file or folder that is no artifact.

        Raises:
            InputError: There is nothing of that name.
        """
        inside, found = self._plain(path)
        listed = (f"{entry.key.removeprefix(inside)} {entry.size} {entry.etag}\n" for entry in found)
        return hashlib.sha256("".join(listed).encode()).hexdigest()

    def listed(self, path: str) -> list[Wanted]:
        """What an artifact, or a part of one, or another file or folder consists of; paths begin below it."""
        found = _IN_ARTIFACT.fullmatch(path)
        if found is None:
            inside, entries = self._plain(path)
            return [Wanted(entry.key, entry.key.removeprefix(inside), entry.size, "") for entry in entries]
        wanted, below = self._wanted(found["prefix"]), found["below"] or ""
        one = [replace(file, path=PurePath(below).name) for file in wanted if file.path == below]
        inside = f"{below}/" if below else ""
        some = [replace(f, path=f.path.removeprefix(inside)) for f in wanted if f.path.startswith(inside)]
        if not one and not some:
            raise InputError("the artifact has no such file or folder", where=f"{self.root}/{path}")
        return one or some

    def _plain(self, path: str) -> tuple[str, list[Entry]]:
        """The objects of a file or folder that is no artifact, and where their names in it begin."""
        key = self._plain_key(path)
        inside = f"{key}/" if key else ""
        found = [entry for entry in self.bucket.entries(inside) if not entry.key.endswith("/")]
        if not found:
            one = self.bucket.head(key)
            found, inside = [one] if one else [], key[: key.rfind("/") + 1]
        if not found:
            raise InputError("no such file or folder", where=f"{self.root}/{path}", hint="check the URI")
        return inside, found

    def _manifest(self, prefix: str) -> bytes:
        content = self.bucket.get(self._plain_key(f"{prefix}/{MANIFEST}"))
        if content is None:
            where = f"{self.root}/{prefix}"
            raise InputError(
                "not a complete artifact: it has no manifest.json", where=where, hint="run its stage again"
            )
        return content

    def _fetch_artifact(self, prefix: str) -> Path:
        digest = hashlib.sha256(self._manifest(prefix)).hexdigest()
        return self._fetch(digest, self._wanted(prefix), prefix)

    def _wanted(self, prefix: str) -> list[Wanted]:
        """The objects of an artifact."""
        manifest = read_manifest(self, prefix)
        data = f"{self._plain_key(prefix)}/{_short(manifest.digest.removeprefix('sha256:'))}"
        return [Wanted(f"{data}/{entry.path}", entry.path, entry.size, entry.sha256) for entry in manifest.files]

    def _fetch_plain(self, path: str) -> Path:
        inside, found = self._plain(path)
        wanted = [Wanted(entry.key, entry.key.removeprefix(inside), entry.size, "") for entry in found]
        content = f"{self.bucket.access.url} {self.bucket.uri(inside)} {self.fingerprint(path)}"
        folder = self._fetch(hashlib.sha256(content.encode()).hexdigest(), wanted, path)
        return folder / wanted[0].path if found[0].key == self._plain_key(path) else folder

    def _fetch(self, name: str, wanted: list[Wanted], what: str) -> Path:
        def bring(files: Path, parts: Path) -> None:
            download(self.bucket, wanted, files, parts, what=what)

        return fetched(name, sum(one.size for one in wanted), bring)

    def _plain_key(self, path: str) -> str:
        return "/".join(filter(None, (self._prefix, path.strip("/"))))


def _short(digest: str) -> str:
    return digest[:16]
