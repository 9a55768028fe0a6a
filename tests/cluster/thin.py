"""Write an image without its layers, as an OCI archive: all that a node lacks which has the layers from other images.

usage: buildah inspect --type image NAME | python3 thin.py NAME FILE DIGEST...    exit code 3: a layer is not among them
"""

import hashlib
import io
import json
import sys
import tarfile


def thin(inspected: dict[str, str], name: str) -> dict[str, bytes]:
    """Files of the archive by their path.

    Args:
        inspected: What `buildah inspect` prints: manifest and configuration as their exact text.
        name: What the image is to be called.
    """
    manifest, config = inspected["Manifest"].encode(), inspected["Config"].encode()
    described = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": f"sha256:{hashlib.sha256(manifest).hexdigest()}",
        "size": len(manifest),
        "annotations": {"io.containerd.image.name": name},
    }
    blobs = {f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}": blob for blob in (manifest, config)}
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [described]}).encode(),
        **blobs,
    }


def main() -> int:
    name, archive, *there = sys.argv[1:]
    inspected = json.load(sys.stdin)
    if {layer["digest"] for layer in json.loads(inspected["Manifest"])["layers"]} - {*there}:
        return 3
    with tarfile.open(archive, "w") as tar:
        for path, content in thin(inspected, name).items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
