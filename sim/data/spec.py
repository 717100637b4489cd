"""What a user may say of the data: the table ``[data]`` of a scenario."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Source = Literal["digits", "breast-cancer", "csv", "images", "synthetic"]
Partition = Literal["iid", "dirichlet", "by-label", "by-quantity", "natural"]

EXAMPLES_MAX = 10_000_000
FEATURES_MAX = 1_000_000
CLASSES_MAX = 10_000


class DataSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """Where examples come from and how peers get theirs.

    ``path`` is, for csv, a directory of one table per peer (``schema`` a schema file for them, ``target`` the column
    to predict where there is none) and, for images, a directory with an IDX pair, an IDX image file with ``labels``
    beside it, or an NPZ file. ``test_share`` of the examples test everybody where the source brings no test set.

    ``examples`` are those of each peer (0: share the whole pool out); by-quantity takes it as the mean. ``alpha`` is
    the Dirichlet concentration, ``labels_per_peer`` counts classes for by-label, ``skew`` is the standard deviation of
    the logarithm of sizes for by-quantity. With ``replacement`` "auto", peers share examples only when the pool is too
    small.

    Synthetic data are ``classes`` Gaussian clouds in ``features`` dimensions, ``pool`` examples, ``spread`` wide
    where the centers are about 1 apart per dimension.
    """

    source: Source = "digits"
    path: str = ""
    labels: str = ""
    schema: str = ""
    target: str = ""
    test_share: Annotated[float, Meta(gt=0.0, lt=1.0)] = 0.2
    partition: Partition = "dirichlet"
    examples: Annotated[int, Meta(ge=0, le=EXAMPLES_MAX)] = 0
    alpha: Annotated[float, Meta(gt=0.0, le=1e6)] = 0.5
    labels_per_peer: Annotated[int, Meta(ge=1, le=CLASSES_MAX)] = 2
    skew: Annotated[float, Meta(ge=0.0, le=5.0)] = 1.0
    replacement: Literal["auto", "always", "never"] = "auto"
    features: Annotated[int, Meta(ge=1, le=FEATURES_MAX)] = 20
    classes: Annotated[int, Meta(ge=2, le=CLASSES_MAX)] = 4
    pool: Annotated[int, Meta(ge=10, le=EXAMPLES_MAX)] = 10_000
    spread: Annotated[float, Meta(gt=0.0, le=1e3)] = 1.0
