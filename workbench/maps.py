"""Map coordinates: prompts of many languages on a plane, with axes that agree from layer to layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workbench.activations import Activations
from workbench.contrasts import name_of
from workbench.errors import FitError
from workbench.scores import keys_of

if TYPE_CHECKING:
    from jaxtyping import Float

MapStrategy = Callable[[np.ndarray], np.ndarray]
"""`[prompt, d_model] -> [prompt, 2]`."""


def pca(vectors: Float[np.ndarray, "prompt d_model"]) -> Float[np.ndarray, "prompt 2"]:
    """The two directions of most variance."""
    from sklearn.decomposition import PCA

    return PCA(2, svd_solver="covariance_eigh").fit_transform(vectors.astype(np.float64))


def umap(
    vectors: Float[np.ndarray, "prompt d_model"], n_neighbors: int = 15, min_dist: float = 0.1, seed: int = 0
) -> Float[np.ndarray, "prompt 2"]:
    """UMAP of the first 50 principal components; distances between far clusters mean nothing in it."""
    import warnings

    from sklearn.decomposition import PCA
    from umap import UMAP

    few = PCA(min(50, *vectors.shape), svd_solver="covariance_eigh").fit_transform(vectors.astype(np.float64))
    neighbours = min(n_neighbors, len(vectors) - 1)
    with warnings.catch_warnings():
        # It warns that a seed means one thread, which is what asking for a seed asks for.
        warnings.simplefilter("ignore")
        return np.asarray(UMAP(n_neighbors=neighbours, min_dist=min_dist, random_state=seed).fit_transform(few))


def coordinates(acts: Activations, method: MapStrategy = pca, centre_by: str | None = None) -> pd.DataFrame:
    """Where each prompt lies on a plane, at every layer and position of the activations.

    Axes are aligned: each layer's points are turned or mirrored, never stretched, to lie closest to those of the layer
    before (orthogonal Procrustes), so that an animation over layers moves because the vectors do. On the first map harm
    grows to the right and upwards, as far as it grows.

    Args:
        acts: activations; several layers and positions give one map each.
        method: `pca`, `umap`, or a function `[prompt, d_model] -> [prompt, 2]`.
        centre_by: column whose groups' means are taken away first; `language` shows harm where languages lie far apart.

    Returns:
        The keys, `layer`, `position`, and `{method}_x`, `{method}_y`: residual-stream units for `pca`, none for `umap`.

    Raises:
        FitError: fewer than three prompts.
    """
    from scipy.linalg import orthogonal_procrustes

    if len(acts) < 3:
        raise FitError(f"A map needs at least three prompts; there are {len(acts)}. Select more rows.")
    axes = [f"{name_of(method.func if isinstance(method, partial) else method)}_{axis}" for axis in "xy"]
    parts, before, first = [], None, None
    for position in acts.positions:
        # A new position starts again at its first layer, next to the first layer of the position before.
        before = first
        for layer in acts.layers:
            here = acts.sel(layer=layer, position=position)
            points = np.asarray(method(_centred(here, centre_by)), dtype=np.float64)
            points = points - points.mean(0)
            points = _facing(points, acts.rows) if before is None else points @ orthogonal_procrustes(points, before)[0]
            before = points
            first = points if first is None or layer == acts.layers[0] else first
            table = keys_of(acts.rows).assign(layer=layer, position=position)
            parts.append(table.assign(**dict(zip(axes, points.T, strict=True))))
    return pd.concat(parts, ignore_index=True)


def components(acts: Activations, n: int = 10) -> pd.DataFrame:
    """The first principal components of each layer and position: what a map can be drawn from without activations.

    Args:
        acts: activations; several layers and positions give a set of components each.
        n: how many.

    Returns:
        The keys, `layer`, `position` and `p0` .. `p{n-1}` (residual-stream units, float32), most variance first.
    """
    from sklearn.decomposition import PCA

    parts = []
    for position in acts.positions:
        for layer in acts.layers:
            vectors = acts.sel(layer=layer, position=position).vectors.astype(np.float64)
            points = PCA(min(n, *vectors.shape), svd_solver="covariance_eigh").fit_transform(vectors)
            named = {f"p{k}": column.astype(np.float32) for k, column in enumerate(points.T)}
            parts.append(keys_of(acts.rows).assign(layer=layer, position=position, **named))
    return pd.concat(parts, ignore_index=True)


def _centred(acts: Activations, centre_by: str | None) -> np.ndarray:
    vectors = acts.vectors
    if centre_by is None:
        return vectors
    for at in acts.rows.groupby(centre_by, sort=False).indices.values():
        vectors[at] -= vectors[at].mean(0, dtype=np.float64)
    return vectors


def _facing(points: np.ndarray, rows: pd.DataFrame) -> np.ndarray:
    """The points with each axis mirrored, where needed, so that harmful prompts lie on its larger side."""
    harmful = (rows["label"] == "harmful").to_numpy()
    if harmful.all() or not harmful.any():
        return points
    return points * np.where(points[harmful].mean(0) < points[~harmful].mean(0), -1.0, 1.0)
