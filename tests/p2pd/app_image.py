"""The image that tests of a whole daemon pull: `app_is_pushed` (conftest) brings it into the registry."""

from __future__ import annotations

from tests.support.images import content_of, digest_of, make_image

APP = "library/app"
LAYER = content_of("layer", 8 * 1024 * 1024)
LAYER_DIGEST = digest_of(LAYER)
IMAGE = make_image(LAYER, content_of("small", 1000))
