"""Forecasts: what a model says of each image and site now, and which of it is worth preheating. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from p2pd.predict.facts import Facts
from p2pd.predict.predictor import Either, Predictor, PushRule, Recency, Seasonal
from scheduler.core.history import Record

LEAST_CONFIDENCE: Final = 0.25
"""What is less likely is not preheated. Four bytes for one that is used are dear."""

LEAST_SHOWN: Final = 0.05


@dataclass(frozen=True, slots=True)
class Prediction:
    """Hosts of a site will pull an image within the horizon, with this probability, and most likely in `in_s`.

    `digest` is what its tag names now ("": not known). `size_bytes` is what the image has, as far as is known (0: not
    known). `held`: the site has it already, as far as is known.
    """

    image: str
    site: str
    confidence: float
    size_bytes: int
    held: bool
    reason: str
    in_s: float = 0.0
    digest: str = ""


def online(horizon_s: float) -> Predictor:
    """The model that learns. Raises ImportError without the extra `predict`."""
    from p2pd.predict.online import Online  # river takes 100 MiB

    return Online(horizon_s)


MODELS: Final[Mapping[str, Callable[[float], Predictor]]] = {
    "last": Recency,
    "ewma": Seasonal,
    "push": PushRule,
    "ewma+push": lambda horizon_s: Either(Seasonal(horizon_s), PushRule(horizon_s)),
    "river": online,
}
"""The models by name. Each is made for one horizon, in seconds."""


class Forecaster:
    """One model, and what it has seen."""

    def __init__(self, predictor: Predictor, *, kept_s: float) -> None:
        """`kept_s`: for how long a site keeps what it had."""
        self.facts: Final = Facts()
        self._predictor: Final = predictor
        self._kept_s: Final = kept_s

    def observe(self, record: Record) -> None:
        """Take the next record, in the order of time."""
        self._predictor.observe(record, self.facts)
        self.facts.observe(record)

    def predictions(self, now: float, *, repository: str | None = None) -> list[Prediction]:
        """The most likely first. Of one repository alone, if it is named."""
        found = []
        for image, site in self.facts.candidates(now):
            if repository is not None and image.repository != repository:
                continue
            guess = self._predictor.guess(image, site, self.facts, now)
            if guess.confidence < LEAST_SHOWN:
                continue
            held = self.facts.holds(image, site, now, self._kept_s)
            size_bytes = self.facts.size_of(image)
            found.append(
                Prediction(image.name, site, guess.confidence, size_bytes, held, guess.reason, guess.in_s, image.digest)
            )
        return sorted(found, key=lambda each: (-each.confidence, each.image, each.site))


def worth(
    predictions: Iterable[Prediction], left_bytes: Callable[[str], int], *, least: float = LEAST_CONFIDENCE
) -> list[Prediction]:
    """What to preheat, the most likely first, within what each site's budget has left in bytes.

    The saved bytes of each preheated byte are the confidence, whatever the size is. What has no known size is left out,
    because a budget cannot hold it.
    """
    chosen: list[Prediction] = []
    taken: dict[str, int] = {}
    for each in predictions:
        if each.confidence < least or each.held or not each.size_bytes:
            continue
        used = taken.get(each.site, 0)
        if used + each.size_bytes <= left_bytes(each.site):
            taken[each.site] = used + each.size_bytes
            chosen.append(each)
    return chosen
