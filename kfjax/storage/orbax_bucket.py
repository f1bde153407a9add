"""orbax's training states in buckets. Of object stores orbax knows Google's alone; tensorstore, which writes arrays for
it, knows S3 as well.

What orbax tells tensorstore of a folder in `gs://` holds for one in `s3://` too, but for the driver. This module can go
once orbax takes such paths itself (https://github.com/google/orbax/pull/2739).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kfjax.storage import disk
from kfjax.storage.bucket import s3_client

_S3 = re.compile("^s3:/+")


def temporary_path_class(folder: Path) -> type | None:
    """orbax's argument of that name for states in `folder`: in a bucket an object written last makes one complete.

    None, on a disk, stands for a rename. After this call orbax reads and writes in S3 if the folder is there.
    """
    if not disk.in_bucket(folder):
        return None
    import orbax.checkpoint as ocp

    if folder.scheme == "s3":
        _let_orbax_in()
    return ocp.path.atomicity.CommitFileTemporaryPath


def _let_orbax_in() -> None:
    """Replaces orbax's function that describes a folder to tensorstore, since nothing public decides what it says."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    describe = tensorstore_utils.build_kvstore_tspec
    if getattr(describe, "knows_s3", False):
        return

    def build_kvstore_tspec(directory: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        folder = os.fspath(directory)
        if not _S3.match(folder):
            return describe(folder, *args, **kwargs)
        return _with_s3(describe(_S3.sub("gs://", folder), *args, **kwargs), _where())

    build_kvstore_tspec.knows_s3 = True
    tensorstore_utils.build_kvstore_tspec = build_kvstore_tspec


def _with_s3(spec: Any, where: dict[str, Any]) -> Any:
    """tensorstore's description of a store, with S3's driver wherever Google's stands in it."""
    if not isinstance(spec, dict):
        return spec
    if str(spec.get("driver")).startswith("gcs"):
        return spec | {"driver": "s3"} | where
    return {name: _with_s3(value, where) for name, value in spec.items()}


def _where() -> dict[str, Any]:
    """Endpoint and credentials as s3fs has them: tensorstore reads no `AWS_ENDPOINT_URL`."""
    client, where = s3_client().meta, dict[str, Any]()
    if not (urlsplit(client.endpoint_url).hostname or "").endswith("amazonaws.com"):  # there it asks for the region
        where = {"endpoint": client.endpoint_url, "aws_region": client.region_name}
    if "AWS_ACCESS_KEY_ID" in os.environ:  # else it complains of each other place that has none
        where["aws_credentials"] = {"type": "environment"}
    return where
