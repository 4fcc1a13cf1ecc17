"""The layers of a simulated image: one of so many pieces, several of one size, or the size mix of real registries.

The size mix is Docker Hub's (Zhao et al., "Large-Scale Analysis of the Docker Hub Dataset", IEEE CLUSTER 2019,
https://par.nsf.gov/servlets/purl/10167826, 1.8 million layers): half of the compressed layers are smaller than 4 MB,
and nine in ten are smaller than 63 MB. A log-normal distribution has these two quantiles. Half of the images have fewer
than 8 layers, and nine in ten fewer than 18; the default here is an image of many layers.
"""

from __future__ import annotations

import math
import random
from statistics import NormalDist
from typing import Final

MIX_LAYERS: Final = 20
MEDIAN_BYTES: Final = 4e6
NINE_IN_TEN_BYTES: Final = 63e6
_SPREAD: Final = math.log(NINE_IN_TEN_BYTES / MEDIAN_BYTES) / NormalDist().inv_cdf(0.9)


def mixed_layers(count: int, seed: int) -> tuple[int, ...]:
    """The sizes in bytes of an image's layers, in the order of unpacking, which the seed decides.

    The sizes are the middles of `count` equal parts of the distribution, so that all images of as many layers have the
    same bytes: seeds would else be compared by the size of the largest layer.
    """
    normal = NormalDist()
    sizes = [round(MEDIAN_BYTES * math.exp(_SPREAD * normal.inv_cdf((place + 0.5) / count))) for place in range(count)]
    random.Random(seed).shuffle(sizes)
    return tuple(sizes)
