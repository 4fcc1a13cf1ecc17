"""The room that the cache may take, on the machine that the daemon runs on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from p2pd.config.settings import Settings
from peer.core.eviction import DiskShare, Quota, Room
from peer.store.disk import room_of

KUBELETS: Final = ("/var/lib/kubelet", "/var/lib/k0s/kubelet", "/var/snap/microk8s/common/var/lib/kubelet")
IN_A_POD: Final = "KUBERNETES_SERVICE_HOST"
"""The kubelet gives every pod this variable."""


def quota_of(settings: Settings, environ: Mapping[str, str] = os.environ) -> Quota:
    """What the store may use. `auto` does not yield on a disk that a kubelet watches."""
    kept = settings.min_free_bytes
    if isinstance(kept, DiskShare) and kept.yields and is_watched(settings.data, environ):
        kept = DiskShare(kept.percent)
    return Quota(settings.max_bytes, kept, settings.ttl_s)


def is_watched(data: Path, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a kubelet acts on how full the disk of `data` is. In a pod, which does not see that, it is taken to."""
    return bool(environ.get(IN_A_POD)) or any(_is_same_disk(data, Path(each)) for each in KUBELETS)


def room_under(data: Path) -> Room | None:
    """What the file system has on which `data` is, or would be made; None if that cannot be seen."""
    try:
        return room_of(_nearest(data))
    except OSError:
        return None


def _is_same_disk(data: Path, kubelet: Path) -> bool:
    try:
        return kubelet.stat().st_dev == _nearest(data).stat().st_dev
    except OSError:
        return False


def _nearest(data: Path) -> Path:
    """The directory itself, or the nearest one above it that exists. Raises OSError."""
    return next(place for place in (data.absolute(), *data.absolute().parents) if place.exists())
