"""The images of Kubernetes YAML: whatever has containers, in any number of documents, as of `helm template`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import yaml

from peer.errors import InvalidNameError, P2pdError
from peer.oci.reference import parse_image_reference

MAX_BYTES: Final = 16 * 1024 * 1024
_CONTAINERS: Final = frozenset({"containers", "initContainers", "ephemeralContainers"})


class WorkloadError(P2pdError):
    """The text has no images, or is no YAML."""


def images_in(text: str, name: str) -> list[str]:
    """The images in a file of that name, each once. Raises WorkloadError."""
    if len(text) > MAX_BYTES:
        raise WorkloadError(f"{name} is longer than {MAX_BYTES} characters")
    found: dict[str, None] = {}
    try:
        for document in yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # safe
            for image in _images(document, set()):
                parse_image_reference(image)
                found[image] = None
    except yaml.YAMLError as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place is not None else ""
        raise WorkloadError(f"{name}{line} is no YAML: of a Helm chart, give what `helm template` writes") from None
    except InvalidNameError as error:
        raise WorkloadError(f"{name}: {error}") from None
    except RecursionError:
        raise WorkloadError(f"{name} is nested too deeply") from None
    if not found:
        raise WorkloadError(f"{name} has no containers with images")
    return list(found)


def _images(value: Any, seen: set[int]) -> Iterator[str]:
    """An alias stands for the same object wherever it is: each is read once."""
    if not isinstance(value, dict | list) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, list):
        for each in value:
            yield from _images(each, seen)
        return
    for key, inside in value.items():
        if key in _CONTAINERS and isinstance(inside, list):
            for container in inside:
                if isinstance(container, dict) and isinstance(container.get("image"), str) and container["image"]:
                    yield container["image"]
        if key == "volumes" and isinstance(inside, list):
            for volume in inside:
                source = volume.get("image") if isinstance(volume, dict) else None
                if isinstance(source, dict) and isinstance(source.get("reference"), str):
                    yield source["reference"]
        yield from _images(inside, seen)
