#!/usr/bin/env python3
"""Two small control loops of the test cluster.

1. Dynamic volumes for the StorageClass of provisioner rlhf.test/local: a directory on this host,
   offered as a `local` PersistentVolume (so fsGroup works), deleted with its claim.
2. The node's made-up `nvidia.com/gpu` capacity, put back whenever it is missing.

usage: keeper KUBECONFIG NODE VOLUME_DIR GPUS
"""

import base64
import http.client
import json
import pathlib
import re
import shutil
import ssl
import sys
import tempfile
import time
from typing import Any

PROVISIONER = "rlhf.test/local"
GPU = "nvidia.com/gpu"


class Api:
    """The few calls needed, over one kept connection, with the certificate of a kubeconfig."""

    def __init__(self, kubeconfig: str) -> None:
        text = pathlib.Path(kubeconfig).read_text()
        found = re.search(r"https://([\d.]+):(\d+)", text)
        assert found
        self.host, self.port = found[1], int(found[2])
        pem = {key: base64.b64decode(value).decode() for key, value in re.findall(r"([a-z-]+)-data: ([\w+/=]+)", text)}
        self.tls = ssl.create_default_context(cadata=pem["certificate-authority"])
        with tempfile.NamedTemporaryFile("w") as both:
            both.write(pem["client-certificate"] + pem["client-key"])
            both.flush()
            self.tls.load_cert_chain(both.name)
        self.connection: http.client.HTTPSConnection | None = None

    def call(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        if self.connection is None:
            self.connection = http.client.HTTPSConnection(self.host, self.port, timeout=10, context=self.tls)
        payload = None if body is None else json.dumps(body)
        try:
            self.connection.request(method, path, payload, {"Content-Type": kind})
            response = self.connection.getresponse()
            data = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            self.connection.close()
            self.connection = None
            raise
        if response.status in (404, 409):  # gone, or made meanwhile
            return {}
        if response.status >= 400:
            raise OSError(f"{method} {path}: {response.status} {data.get('message')}")
        return data


def keep_gpus(api: Api, node: str, gpus: str) -> None:
    status = api.call("GET", f"/api/v1/nodes/{node}").get("status", {})
    if not status:
        return  # not registered yet
    wrong = [k for k in ("capacity", "allocatable") if status.get(k, {}).get(GPU) != gpus]
    if wrong:
        patch = {"status": {k: {GPU: gpus} for k in wrong}}
        api.call(
            "PATCH",
            f"/api/v1/nodes/{node}/status",
            patch,
            "application/merge-patch+json",
        )
        print(f"set {GPU}={gpus} in {', '.join(wrong)}", flush=True)


def provision(api: Api, node: str, root: pathlib.Path) -> None:
    for claim in api.call("GET", "/api/v1/persistentvolumeclaims")["items"]:
        meta, spec = claim["metadata"], claim["spec"]
        notes = meta.get("annotations", {})
        if (
            spec.get("volumeName")
            or meta.get("deletionTimestamp")
            or notes.get("volume.kubernetes.io/storage-provisioner") != PROVISIONER
        ):
            continue
        name = f"pvc-{meta['uid']}"
        directory = root / name
        directory.mkdir(exist_ok=True)
        directory.chmod(0o777)
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {
                "name": name,
                "annotations": {"pv.kubernetes.io/provisioned-by": PROVISIONER},
            },
            "spec": {
                "capacity": {"storage": spec["resources"]["requests"]["storage"]},
                "accessModes": spec["accessModes"],
                "volumeMode": "Filesystem",
                "storageClassName": spec["storageClassName"],
                "persistentVolumeReclaimPolicy": "Delete",
                "local": {"path": str(directory)},
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "namespace": meta["namespace"],
                    "name": meta["name"],
                    "uid": meta["uid"],
                },
                "nodeAffinity": {
                    "required": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {
                                        "key": "kubernetes.io/hostname",
                                        "operator": "In",
                                        "values": [node],
                                    }
                                ]
                            }
                        ]
                    }
                },
            },
        }
        api.call("POST", "/api/v1/persistentvolumes", volume)
        print(f"made {name} for {meta['namespace']}/{meta['name']}", flush=True)


def reclaim(api: Api, root: pathlib.Path) -> None:
    for volume in api.call("GET", "/api/v1/persistentvolumes")["items"]:
        meta = volume["metadata"]
        if (
            meta.get("annotations", {}).get("pv.kubernetes.io/provisioned-by") == PROVISIONER
            and volume["status"].get("phase") in ("Released", "Failed")
            and volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
            and not meta.get("deletionTimestamp")
        ):
            shutil.rmtree(root / meta["name"], ignore_errors=True)
            api.call("DELETE", f"/api/v1/persistentvolumes/{meta['name']}")
            print(f"deleted {meta['name']}", flush=True)


def main() -> None:
    kubeconfig, node, root, gpus = sys.argv[1:]
    api = Api(kubeconfig)
    while True:
        try:
            keep_gpus(api, node, gpus)
            provision(api, node, pathlib.Path(root))
            reclaim(api, pathlib.Path(root))
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            print(f"will retry: {error}", flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
