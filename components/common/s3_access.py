"""How to reach an S3 service: address, keys, certificates."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio

from components.common.errors import UserError

CONNECTIONS = 16


@dataclass(frozen=True)
class Access:
    """How to reach an S3 service.

    Attributes:
        url: Its address.
        region: Its region.
        access_key: Who asks.
        secret_key: What proves it.
        session_token: Goes with temporary keys.
        ca_file: Certificates to trust instead of the public ones.
    """

    url: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    ca_file: str = ""

    @staticmethod
    def from_environment() -> Access:
        """Reads the variables that all AWS tools read.

        Raises:
            UserError: A key is missing, the address is none, or there is no such file of certificates.
        """
        read = os.environ.get
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            if not read(name):
                raise UserError("is not set", where=name, hint="a store on S3 needs it; see docs/store.md")
        region = read("AWS_REGION") or "us-east-1"
        url = read("AWS_ENDPOINT_URL") or f"https://s3.{region}.amazonaws.com"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise UserError(f"is no address: {url}", where="AWS_ENDPOINT_URL", hint="write http://HOST:PORT")
        ca_file = read("AWS_CA_BUNDLE") or ""
        if ca_file and not os.path.isfile(ca_file):
            raise UserError("no such file", where=f"AWS_CA_BUNDLE={ca_file}", hint="give a PEM file of certificates")
        keys = (str(read("AWS_ACCESS_KEY_ID")), str(read("AWS_SECRET_ACCESS_KEY")), read("AWS_SESSION_TOKEN") or "")
        return Access(url.rstrip("/"), region, *keys, ca_file)

    def http(self) -> urllib3.PoolManager:
        """A pool of connections. Nothing is repeated in it: that is our business, and takes longer than it would."""
        return urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=10, read=60),
            maxsize=CONNECTIONS,
            retries=False,
            cert_reqs="CERT_REQUIRED",
            ca_certs=self.ca_file or certifi.where(),
        )


@lru_cache(maxsize=8)
def connect(access: Access) -> Minio:
    """A client; its connections are shared by all that ask for the same access."""
    parts = urlsplit(access.url)
    return Minio(
        parts.netloc,
        access_key=access.access_key,
        secret_key=access.secret_key,
        session_token=access.session_token or None,
        secure=parts.scheme == "https",
        region=access.region,
        http_client=access.http(),
    )
