"""Which directions change nothing? The null space of J, in orthonormal pieces (statements F1, N3).

Every null direction is a sum of exchanges between neighbours, v_i = X_i M_i and v_{i+1} = −W_{i+1} X_i, up to
directions outside of the ranges of B̃_iᵀ and Ã_i. On these ranges (bases V_i, U_i from the sweeps)
X_i = V_i Y_i U_{i+1}ᵀ with Y_i (r(B̃_i) × r(Ã_{i+1})) free, and the map from Y to directions is injective: the count
of the Y is the nullity of statement F1, whatever the widths and ranks. With the singular value decompositions of
C_i = U_{i+1}ᵀM_iU_i and D_{i+1} = V_{i+1}ᵀW_{i+1}V_i (values c_a, d_b) each exchange becomes orthonormal by itself,

    x_i = cos ∘ Z_i,   x_{i+1} = − sin ∘ Z_i,   tan = d_b / c_a,

and only its angle to the next one is left: the condition of J, and of the product of the layers, is gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from linnat._checks import Array
from linnat.exact.chains import Chains, Problem
from linnat.linalg.block_qr import factor_bidiagonal, project_on_bidiagonal
from linnat.linalg.kernels import transpose
from linnat.linalg.kron import outer_kron


class Kernel(NamedTuple):
    """Orthonormal exchanges between neighbouring layers; place i − 1 holds what belongs to Y_i or to layer i.

    Attributes
    ----------
    cosine, sine : tuples of arrays (…, p_i, q_{i+1}), i = 1 … L − 1
    rows : tuple of arrays (…, p_i, p_{i-1}), i = 2 … L − 1
        Orthonormal columns: from the frame of Y_{i-1} to that of Y_i.
    columns : tuple of arrays (…, q_{i+1}, q_i), i = 2 … L − 1
        Orthonormal rows.
    frames : tuple of (left (…, n_i, ·), right (…, m_i, ·)), i = 1 … L
        v_i = left x_i rightᵀ.
    """

    cosine: tuple[Array, ...]
    sine: tuple[Array, ...]
    rows: tuple[Array, ...]
    columns: tuple[Array, ...]
    frames: tuple[tuple[Array, Array], ...]

    @property
    def size(self) -> int:
        """The nullity of J on the ranges of the sweeps, Σ r(B̃_i) r(Ã_{i+1})."""
        return sum(math.prod(c.shape[-2:]) for c in self.cosine)

    @property
    def length(self) -> int:
        """The number of coordinates x_i, all layers together."""
        return sum(left.shape[-1] * right.shape[-1] for left, right in self.frames)

    @property
    def batch(self) -> tuple[int, ...]:
        """The leading axes."""
        return tuple(self.cosine[0].shape[:-2])

    @property
    def odd(self) -> range:
        """Y_1, Y_3, …: no two share a layer, so that together they are orthonormal."""
        return range(0, len(self.cosine), 2)

    @property
    def even(self) -> range:
        """Y_2, Y_4, …."""
        return range(1, len(self.cosine), 2)


def make_kernel(problem: Problem, chains: Chains) -> Kernel:
    """Return the null space of J for L ≥ 2: two small SVDs for each hidden layer, about 40 n³ flops."""
    depth = problem.depth
    left, right = chains.left.bases[::-1], chains.right.bases
    ups = [_restrict(right[i + 1], problem.maps[i], right[i]) for i in range(depth - 1)]
    downs = [_restrict(left[i + 1], problem.weights[i + 1], left[i]) for i in range(depth - 1)]
    upper = [np.linalg.svd(c, full_matrices=False) for c in ups]  # U_i, c, P_iᵀ
    lower = [np.linalg.svd(d, full_matrices=False) for d in downs]  # Q_{i+1}, d, V_iᵀ
    cosine, sine = [], []
    for (_, c, _), (_, d, _) in zip(upper, lower, strict=True):
        radius = np.hypot(d[..., :, None], c[..., None, :])
        radius = np.where(radius > 0, radius, 1)
        cosine.append(c[..., None, :] / radius)
        sine.append(d[..., :, None] / radius)
    middle = range(1, depth - 1)
    rows = [lower[i][2] @ lower[i - 1][0] for i in middle]
    columns = [upper[i][2] @ upper[i - 1][0] for i in middle]
    frames = []
    for i in range(depth):
        own = transpose(lower[i][2]) if i < depth - 1 else lower[i - 1][0]
        other = upper[i - 1][0] if i else transpose(upper[0][2])
        frames.append((_widen(left[i], own), _widen(right[i], other)))
    return Kernel(tuple(cosine), tuple(sine), tuple(rows), tuple(columns), tuple(frames))


def exchange(kernel: Kernel, z: Array, members: Sequence[int] | range) -> Array:
    """Return the coordinates x (…, length) of a combination z of the exchanges `members`. 4 n³ flops a layer."""
    parts = dict(zip(members, _split(z, [kernel.cosine[i].shape[-2:] for i in members]), strict=True))
    layers = []
    for i, shape in enumerate(_shapes(kernel)):
        x: Array | None = None
        if i in parts:
            x = kernel.cosine[i] * parts[i]
            x = x @ kernel.columns[i - 1] if i else x
        if i - 1 in parts:
            y = kernel.sine[i - 1] * parts[i - 1]
            y = kernel.rows[i - 1] @ y if i < len(kernel.cosine) else y
            x = -y if x is None else x - y
        layers.append(np.zeros((*z.shape[:-1], *shape), z.dtype) if x is None else x)
    return _join(layers)


def overlaps(kernel: Kernel, x: Array, members: Sequence[int] | range) -> Array:
    """Return the scalar products of x with the exchanges `members`: the transpose of `exchange`."""
    layers = _split(x, _shapes(kernel))
    result = []
    for i in members:
        own = layers[i] @ transpose(kernel.columns[i - 1]) if i else layers[i]
        above = layers[i + 1]
        above = transpose(kernel.rows[i]) @ above if i + 1 < len(kernel.cosine) else above
        result.append(kernel.cosine[i] * own - kernel.sine[i] * above)
    return _join(result)


def coordinates(kernel: Kernel, direction: Sequence[Array]) -> Array:
    """Return x_i = leftᵀ v_i right, flat."""
    pairs = zip(direction, kernel.frames, strict=True)
    return _join([transpose(left) @ v @ right for v, (left, right) in pairs])


def directions(kernel: Kernel, x: Array) -> list[Array]:
    """Return v_i = left x_i rightᵀ."""
    pairs = zip(_split(x, _shapes(kernel)), kernel.frames, strict=True)
    return [left @ part @ transpose(right) for part, (left, right) in pairs]


def dense_kernel(kernel: Kernel) -> Array:
    """Return all exchanges as the columns of one matrix (…, length, size)."""
    identity = np.eye(kernel.size, dtype=kernel.cosine[0].dtype)
    for _ in kernel.batch:
        identity = identity[:, None]
    every = exchange(kernel, identity, range(len(kernel.cosine)))
    return np.moveaxis(np.broadcast_to(every, (kernel.size, *kernel.batch, kernel.length)), 0, -1)


def off_kernel(kernel: Kernel, x: Array) -> Array:
    """Return the projection of x (…, length) on the complement of all exchanges, by one QR of them and two passes."""
    turns = factor_bidiagonal(_own(kernel, 0), _columns(kernel))
    shapes = _shapes(kernel)
    for _ in range(2):
        parts = [part.reshape(*part.shape[:-2], -1) for part in _split(x, shapes)]
        x = x - np.concatenate(project_on_bidiagonal(turns, parts), axis=-1)
    return x


def qr_cost(kernel: Kernel) -> tuple[int, int]:
    """Return the flops of `off_kernel`, and the numbers that it holds."""
    layers, sizes = [p * q for p, q in _shapes(kernel)], [math.prod(c.shape[-2:]) for c in kernel.cosine]
    rows, flops, kept, widest = layers[0], 0, 0, 0
    for j, size in enumerate(sizes):
        rows += layers[j + 1]
        following = sizes[j + 1] if j + 1 < len(sizes) else 0
        flops += 2 * rows * size * (size + 2 * following)
        kept += rows * (rows if kernel.batch else size)
        widest = max(widest, 3 * rows * max(size, following))
        rows -= size
    return flops, kept + widest


def _columns(kernel: Kernel) -> Iterator[tuple[Array, Array | None]]:
    """Yield the block columns of all exchanges as one matrix: Y_j enters the layers j and j + 1."""
    for i, sine in enumerate(kernel.sine):
        last = i + 1 == len(kernel.sine)
        eye = np.eye(sine.shape[-1], dtype=sine.dtype)
        below = (
            np.eye(math.prod(sine.shape[-2:]), dtype=sine.dtype) if last else outer_kron(kernel.rows[i], eye)
        )
        yield below * _flat(-sine), None if last else _own(kernel, i + 1)


def _own(kernel: Kernel, i: int) -> Array:
    """Return the matrix that takes Y to its part in the layer of the same number."""
    cosine = kernel.cosine[i]
    if i == 0:
        return np.asarray(np.eye(math.prod(cosine.shape[-2:]), dtype=cosine.dtype) * _flat(cosine))
    eye = np.eye(cosine.shape[-2], dtype=cosine.dtype)
    return np.asarray(outer_kron(eye, transpose(kernel.columns[i - 1])) * _flat(cosine))


def _flat(matrix: Array) -> Array:
    return matrix.reshape(*matrix.shape[:-2], 1, -1)


def _shapes(kernel: Kernel) -> list[tuple[int, int]]:
    return [(left.shape[-1], right.shape[-1]) for left, right in kernel.frames]


def _restrict(outer: Array | None, matrix: Array, inner: Array | None) -> Array:
    image = matrix if inner is None else matrix @ inner
    return image if outer is None else transpose(outer) @ image


def _widen(basis: Array | None, frame: Array) -> Array:
    return frame if basis is None else basis @ frame


def _split(flat: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    parts, start = [], 0
    for rows, columns in shapes:
        stop = start + rows * columns
        parts.append(flat[..., start:stop].reshape(*flat.shape[:-1], rows, columns))
        start = stop
    return parts


def _join(parts: Sequence[Array]) -> Array:
    return np.concatenate([p.reshape(*p.shape[:-2], -1) for p in parts], axis=-1)
