"""How to reach an S3 service: address, keys, certificates."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

import certifi
import urllib3
from minio import Minio
from minio.credentials.providers import Provider, StaticProvider

from components.common.errors import UserError
from components.common.s3_keys import VARIABLE, FileKeys

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
        keys_file: Where the keys are, if they are in a file, which may be replaced meanwhile.
    """

    url: str
    region: str
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    ca_file: str = ""
    keys_file: str = ""

    @staticmethod
    def from_environment() -> Access:
        """Reads the variables that all AWS tools read.

        Raises:
            UserError: A key is missing, the address is none, or there is no such file of certificates.
        """
        read = os.environ.get
        keys_file = "" if read("AWS_ACCESS_KEY_ID") else read(VARIABLE) or ""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            if not keys_file and not read(name):
                raise UserError("is not set", where=name, hint="a store on S3 needs it; see docs/store.md")
        region = read("AWS_REGION") or "us-east-1"
        url = read("AWS_ENDPOINT_URL") or f"https://s3.{region}.amazonaws.com"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise UserError(f"is no address: {url}", where="AWS_ENDPOINT_URL", hint="write http://HOST:PORT")
        ca_file = read("AWS_CA_BUNDLE") or ""
        if ca_file and not os.path.isfile(ca_file):
            raise UserError("no such file", where=f"AWS_CA_BUNDLE={ca_file}", hint="give a PEM file of certificates")
        if keys_file:
            return Access(url.rstrip("/"), region, ca_file=ca_file, keys_file=keys_file)
        keys = (str(read("AWS_ACCESS_KEY_ID")), str(read("AWS_SECRET_ACCESS_KEY")), read("AWS_SESSION_TOKEN") or "")
        return Access(url.rstrip("/"), region, *keys, ca_file)

    def keys(self) -> Provider:
        """Gives the client its keys, before each request."""
        if self.keys_file:
            return FileKeys(self.keys_file)
        return StaticProvider(self.access_key, self.secret_key, self.session_token or None)

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
        credentials=access.keys(),
        secure=parts.scheme == "https",
        region=access.region,
        http_client=access.http(),
    )
