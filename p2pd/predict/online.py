"""A model that learns from what came of its own questions: logistic regression, one example at a time (river).

Each time it is asked about an image and a site, it may keep the question, and learns the answer when the horizon is
over. Its features are what the simple predictors say, and what they do not look at: the form of the tag, which other
sites have pulled what was pushed, and how long ago.

Rules:
1. Of questions whose answer is most likely no, one in `SPARED` is kept, with that weight. Which ones is told by a hash:
   the same records give the same model.
2. What it answers is between the simple predictors' and the model's, by how many examples it has: a model that has
   learned nothing is not heard.
"""

from __future__ import annotations

import math
import re
from collections import deque
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from river import linear_model, optim, preprocessing

from p2pd.predict.facts import DAY_S, Facts, ImageFacts
from p2pd.predict.predictor import Guess, PushRule, Seasonal
from scheduler.core.history import Record

MAX_QUESTIONS: Final = 50_000
SPARED: Final = 8
LIKELY: Final = 0.02
ENOUGH: Final = 300.0
"""Examples, after which the model counts as much as the simple predictors."""


class _Question(NamedTuple):
    at: float
    image: str
    site: str
    features: dict[str, float]
    weight: float


class Online:
    """See `p2pd.predict.predictor.Predictor`."""

    def __init__(self, horizon_s: float) -> None:
        self._horizon_s = horizon_s
        self._seasonal, self._push = Seasonal(horizon_s), PushRule(horizon_s)
        self._scaler: Any = preprocessing.StandardScaler()
        self._model: Any = linear_model.LogisticRegression(optimizer=optim.AdaGrad(0.1), l2=1e-5)
        self._open: deque[_Question] = deque()
        self._examples = 0.0

    def observe(self, record: Record, facts: Facts) -> None:
        self._seasonal.observe(record, facts)
        self._push.observe(record, facts)
        self._learn(record.at, facts)

    def guess(self, image: ImageFacts, site: str, facts: Facts, now: float) -> Guess:
        seasonal = self._seasonal.guess(image, site, facts, now)
        push = self._push.guess(image, site, facts, now)
        simple = 1.0 - (1.0 - seasonal.confidence) * (1.0 - push.confidence)
        features = self._features(image, site, now, seasonal.confidence, push.confidence)
        said = float(self._model.predict_proba_one(self._scaled(features)).get(True, 0.5))
        self._ask(image.name, site, now, features, max(simple, said if self._examples > ENOUGH else 0.0))
        share = self._examples / (self._examples + ENOUGH)
        confidence = share * said + (1.0 - share) * simple
        simplest = max(seasonal, push)
        return Guess(confidence, simplest.reason or "learned from pulls like it", simplest.in_s)

    def _ask(self, image: str, site: str, now: float, features: dict[str, float], likely: float) -> None:
        weight = 1.0
        if likely < LIKELY:
            if blake2b(f"{image}\n{site}\n{now:.0f}".encode(), digest_size=2).digest()[0] % SPARED:
                return
            weight = float(SPARED)
        if len(self._open) < MAX_QUESTIONS:
            self._open.append(_Question(now, image, site, features, weight))

    def _learn(self, now: float, facts: Facts) -> None:
        while self._open and now - self._open[0].at > self._horizon_s:
            asked = self._open.popleft()
            image = facts.images.get(asked.image)
            at_site = None if image is None else image.sites.get(asked.site)
            times = () if at_site is None else at_site.times
            is_pulled = any(asked.at < at <= asked.at + self._horizon_s for at in times)
            self._scaler.learn_one(_dense(asked.features))
            self._model.learn_one(self._scaled(asked.features), is_pulled, w=asked.weight)
            self._examples += 1.0

    def _scaled(self, features: dict[str, float]) -> dict[str, float]:
        """What is 1 or absent stays as it is."""
        return {**features, **self._scaler.transform_one(_dense(features))}

    def _features(self, image: ImageFacts, site: str, now: float, seasonal: float, push: float) -> dict[str, float]:
        at_site = image.sites.get(site)
        moved_s = now - image.moved_at
        others = sum(each.pulled_since_move for name, each in image.sites.items() if name != site)
        pulled_s = now - at_site.times[-1] if at_site is not None and at_site.times else 60 * DAY_S
        is_new = moved_s <= DAY_S and not (at_site is not None and at_site.pulled_since_move)
        hour = 2 * math.pi * (now % DAY_S) / DAY_S
        kind = re.sub(r"[0-9a-f]{7,}|[0-9]+", "#", image.tag)[:16]
        features = {
            "seasonal": _logit(seasonal),
            "push": _logit(push),
            "moved": math.log1p(moved_s / 600.0),
            "pulled": math.log1p(pulled_s / 600.0),
            "sin": math.sin(hour),
            "cos": math.cos(hour),
            "new": float(is_new),
            "elsewhere": float(others) * is_new,
            "none_elsewhere": float(is_new and not others),
        }
        if is_new:
            age = min(5, int(math.log2(1 + moved_s / 900.0)))
            features[f"kind {kind}"] = 1.0
            features[f"age {age}"] = 1.0
            features[f"repository {image.repository}"] = 1.0
            features[f"repository {image.repository} {site} {min(others, 3)}"] = 1.0
        return features


def _dense(features: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in features.items() if " " not in name}


def _logit(probability: float) -> float:
    bounded = min(0.99, max(0.01, probability))
    return math.log(bounded / (1.0 - bounded))
