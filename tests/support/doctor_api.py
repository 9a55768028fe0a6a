"""As much of a cluster as `rlhf doctor` asks for, on loopback."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

NS = "/api/v1/namespaces/rlhf"
NODE = {
    "metadata": {"name": "gpu-1", "labels": {"nvidia.com/gpu.product": "Tesla-T4"}},
    "spec": {},
    "status": {"allocatable": {"nvidia.com/gpu": "4"}, "images": None},
}
POD = {
    "metadata": {"name": "other"},
    "spec": {"nodeName": "gpu-1", "containers": [{"resources": {"limits": {"nvidia.com/gpu": "3"}}}]},
    "status": {"phase": "Running"},
}
DEPLOYMENT = {"metadata": {"name": "training-operator", "namespace": "kubeflow"}, "status": {"readyReplicas": 1}}


class Api:
    """Answers GET by path, and every review of our rights by `refused`."""

    def __init__(self):
        named = {"metadata": {"name": "x"}}
        self.answers = {
            "/version": {},
            "/apis/kubeflow.org/v1": {"resources": [{"name": "pytorchjobs"}]},
            "/apis/apps/v1/deployments": {"items": [DEPLOYMENT]},
            NS: {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
            f"{NS}/serviceaccounts/rlhf-launcher": named,
            f"{NS}/serviceaccounts/rlhf-stage": named,
            f"{NS}/configmaps/rlhf-stack": {"data": {}},
            f"{NS}/secrets/rlhf-store": {"data": {}},
            f"{NS}/resourcequotas": {"items": []},
            f"{NS}/limitranges": {"items": []},
            "/api/v1/nodes": {"items": [NODE]},
            "/api/v1/pods": {"items": []},
            "/api/v1/services": {"items": [{"metadata": {"name": "ml-pipeline", "namespace": "kfp"}}]},
            "/api/v1/namespaces/kfp/services/ml-pipeline:8888/proxy/apis/v2beta1/healthz": {"multi_user": False},
        }
        self.refused: set[tuple[str, str]] = set()
        self.reviewed: list[tuple[str, str, str]] = []
        handler = type("Handler", (_Handler,), {"api": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def kubeconfig(self, folder):
        server = f"http://127.0.0.1:{self.http.server_address[1]}"
        path = folder / "kubeconfig"
        fields = {
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "rlhf"}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **fields}))
        return str(path)


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_args):
        pass

    def do_GET(self):
        found = self.api.answers.get(self.path.partition("?")[0], 404)
        self._answer(found if isinstance(found, int) else 200, {"message": "no"} if isinstance(found, int) else found)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, [asked["resource"], asked["subresource"]]))
        self.api.reviewed.append((asked["group"], resource, asked["verb"]))
        self._answer(201, {"status": {"allowed": (resource, asked["verb"]) not in self.api.refused}})

    def _answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
