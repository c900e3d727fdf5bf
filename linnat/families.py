"""Which distribution do the targets have, given what the network puts out?

Exponential families with canonical link: p(y | z) ∝ exp(⟨z, T(y)⟩ − A(z)), where z is the output of the network, its
last axis the C coordinates. Statistic T(y), log-partition A, mean, Fisher matrix ∇²A in z:

====================================  ==============  ============  ============  ============
family                                statistic       A(z)          mean E[y]     Fisher
====================================  ==============  ============  ============  ============
Gaussian of covariance Σ              Σ⁻¹y            ½ zᵀΣ⁻¹z      z             Σ⁻¹
Bernoulli, independent coordinates    y               Σ log(1+e^z)  1/(1+e^{−z})  diag p(1−p)
categorical                           y, one-hot      log Σ e^z     e^{z−A}       diag p − ppᵀ
Poisson, independent coordinates      y               Σ e^z         e^z           diag λ
====================================  ==============  ============  ============  ============

For the Gaussian z is the mean, as everywhere in this package: Σ⁻¹y is the statistic whose natural parameter z is.
Softmax has a gauge: z and z + c1 are the same distribution, and 1 is a null vector of the Fisher matrix. Targets may be
expectations: probabilities for labels, points of the simplex for classes, rates for counts.

Probabilities and their complements alike are computed without cancellation: relative errors are
eps (1 + |z|), down to the smallest numbers of the type. Used by statements C7 and C8. Reference: Amari (1998).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from linnat._checks import (
    Array,
    as_count,
    as_covariance,
    as_float_array,
    as_rng,
    check_broadcast,
    fail,
    representable,
)
from linnat.linalg.exponentials import (
    exponential_excess,
    log_softmax,
    log_sum_exp,
    sigmoid,
    softmax,
    softmax_divergence,
    softplus,
)

NAMES = ("gaussian", "bernoulli", "categorical", "poisson")


class Family(ABC):
    """An exponential family with canonical link: functions of the network's output z (…, C).

    Arguments z and y broadcast against each other; float32 is kept. Inputs out of range raise an `InputError`, numbers
    that leave the range of the type a `RangeError`.
    """

    name: str = ""

    def __init_subclass__(cls, **options: Any) -> None:
        """Give the functions of a family the package's one rule of overflow: a number, or a RangeError."""
        super().__init_subclass__(**options)
        for key, function in list(vars(cls).items()):
            if callable(function) and not key.startswith("_"):
                setattr(cls, key, representable("z, y")(function))

    @abstractmethod
    def targets(self, y: Any, name: str = "y") -> Array:
        """Return targets (…, C) after a check of their range; `name` is what errors call them."""

    @abstractmethod
    def mean(self, z: Any) -> Array:
        """Return E[y | z], (…, C)."""

    @abstractmethod
    def link(self, mean: Any) -> Array:
        """Return z, (…, C), of which `mean` is the mean; for softmax the z of sum zero."""

    @abstractmethod
    def log_partition(self, z: Any) -> Array:
        """Return A(z), (…)."""

    @abstractmethod
    def loss(self, z: Any, y: Any) -> Array:
        """Return −log p(y | z), (…), without the terms that depend on y alone."""

    @abstractmethod
    def score(self, z: Any, y: Any) -> Array:
        """Return −∂loss/∂z = T(y) − E[T(y) | z], (…, C)."""

    @abstractmethod
    def fisher(self, z: Any) -> Array:
        """Return the Fisher matrix ∇²A(z), (…, C, C)."""

    @abstractmethod
    def fisher_product(self, z: Any, direction: Any) -> Array:
        """Return the Fisher matrix times a direction (…, C), (…, C), without forming it."""

    @abstractmethod
    def fisher_root(self, z: Any) -> Array:
        """Return B, (…, C, C), with BBᵀ the Fisher matrix, entries of relative accuracy."""

    @abstractmethod
    def kl(self, z: Any, other: Any) -> Array:
        """Return KL(p(·|z) ‖ p(·|other)), (…): non-negative, relatively accurate also for nearby arguments."""

    @abstractmethod
    def sample(self, z: Any, rng: Any) -> Array:
        """Draw y given z, (…, C); `rng` a Generator or an integer seed."""


@dataclass(frozen=True, eq=False)
class Gaussian(Family):
    """y | z ~ N(z, Σ): the model of linear regression.

    Parameters
    ----------
    cov : array (C, C), optional
        Σ, positive definite; the identity of any size by default.

    Raises
    ------
    InputError
        For a covariance that is not symmetric positive definite.

    Examples
    --------
    >>> family = Gaussian([[4.0]])
    >>> float(family.loss([1.0], [3.0])), family.fisher([1.0])
    (0.5, array([[0.25]]))
    """

    cov: Any = None
    name: str = field(default="gaussian", init=False)
    _factor: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.cov is None:
            return
        given = as_float_array(self.cov, "cov", ndim=2)
        cov = as_covariance(given, "cov", len(given), definite=True)
        cov.flags.writeable = False
        object.__setattr__(self, "cov", cov)
        object.__setattr__(self, "_factor", np.linalg.cholesky(cov))

    def targets(self, y: Any, name: str = "y") -> Array:
        """Return targets (…, C): any real numbers."""
        return self._fits(as_float_array(y, name, min_ndim=1), name)

    def mean(self, z: Any) -> Array:
        """Return z."""
        return self._fits(_predictors(z), "z").copy()

    def link(self, mean: Any) -> Array:
        """Return the mean itself."""
        return self._fits(as_float_array(mean, "mean", min_ndim=1), "mean").copy()

    def log_partition(self, z: Any) -> Array:
        """Return ½ zᵀΣ⁻¹z."""
        return _half_square(self.whiten(self._fits(_predictors(z), "z")))

    def loss(self, z: Any, y: Any) -> Array:
        """Return ½ (y − z)ᵀΣ⁻¹(y − z)."""
        predictors, values = _pair(self._fits(_predictors(z), "z"), self.targets(y))
        return _half_square(self.whiten(values - predictors))

    def score(self, z: Any, y: Any) -> Array:
        """Return Σ⁻¹(y − z)."""
        predictors, values = _pair(self._fits(_predictors(z), "z"), self.targets(y))
        return self._metric(values - predictors)

    def fisher(self, z: Any) -> Array:
        """Return Σ⁻¹, whatever z."""
        root = self.fisher_root(z)
        return root @ np.swapaxes(root, -1, -2)

    def fisher_product(self, z: Any, direction: Any) -> Array:
        """Return Σ⁻¹ times a direction."""
        _, vectors = _pair(self._fits(_predictors(z), "z"), _predictors(direction, "direction"))
        return self._metric(vectors)

    def fisher_root(self, z: Any) -> Array:
        """Return C⁻ᵀ, C the Cholesky factor of Σ."""
        predictors = self._fits(_predictors(z), "z")
        size = predictors.shape[-1]
        root = np.eye(size) if self._factor is None else np.linalg.solve(self._factor, np.eye(size)).T
        return np.broadcast_to(root, (*predictors.shape[:-1], size, size)).astype(predictors.dtype)

    def kl(self, z: Any, other: Any) -> Array:
        """Return ½ ‖z − other‖² in the metric Σ⁻¹."""
        one, two = _pair(self._fits(_predictors(z), "z"), self._fits(_predictors(other, "other"), "other"))
        return _half_square(self.whiten(two - one))

    def sample(self, z: Any, rng: Any) -> Array:
        """Draw from N(z, Σ)."""
        predictors = self._fits(_predictors(z), "z")
        noise = as_rng(rng).standard_normal(predictors.shape)
        coloured = noise if self._factor is None else noise @ self._factor.T
        return np.asarray(predictors + np.asarray(coloured).astype(predictors.dtype))

    def whiten(self, difference: Array) -> Array:
        """Return C⁻¹ times a difference of means (…, C), C the Cholesky factor of Σ."""
        if self._factor is None:
            return difference
        white = np.linalg.solve(self._factor, difference[..., None])[..., 0]
        return np.asarray(white).astype(difference.dtype, copy=False)

    def _metric(self, vectors: Array) -> Array:
        """Return Σ⁻¹ times vectors (…, C)."""
        if self._factor is None:
            return vectors.copy()
        white = self.whiten(vectors)[..., None]
        return np.asarray(np.linalg.solve(self._factor.T, white)[..., 0]).astype(vectors.dtype, copy=False)

    def _fits(self, array: Array, name: str) -> Array:
        if self._factor is not None and array.shape[-1] != len(self._factor):
            fail(name, f"{len(self._factor)} coordinates, the size of Σ", f"shape {array.shape}")
        return array


@dataclass(frozen=True)
class Bernoulli(Family):
    """y_c ∈ {0, 1} independent, with log-odds z_c: logistic regression.

    Examples
    --------
    >>> family = Bernoulli()
    >>> family.mean([0.0, -690.0])
    array([5.00000000e-001, 2.17173828e-300])
    >>> float(family.loss([690.0], [1.0])) == float(family.mean([-690.0])[0])
    True
    """

    name: str = field(default="bernoulli", init=False)

    def targets(self, y: Any, name: str = "y") -> Array:
        """Return targets (…, C): labels 0 and 1, or probabilities."""
        values = as_float_array(y, name, min_ndim=1)
        if (values < 0).any() or (values > 1).any():
            worst = float(values.min() if (values < 0).any() else values.max())
            remedy = "Labels ±1 become (y + 1)/2." if worst == -1 else ""
            fail(name, "labels 0 or 1, or probabilities", worst, remedy)
        return values

    def mean(self, z: Any) -> Array:
        """Return 1/(1 + e^{−z})."""
        return sigmoid(_predictors(z))

    def link(self, mean: Any) -> Array:
        """Return log(p/(1 − p))."""
        p = as_float_array(mean, "mean", min_ndim=1)
        if (p <= 0).any() or (p >= 1).any():
            fail("mean", "probabilities in (0, 1)", float(p.min() if (p <= 0).any() else p.max()))
        return np.asarray(np.log(p) - np.log1p(-p))

    def log_partition(self, z: Any) -> Array:
        """Return Σ_c log(1 + e^{z_c})."""
        return np.asarray(softplus(_predictors(z)).sum(axis=-1))

    def loss(self, z: Any, y: Any) -> Array:
        """Return the cross-entropy Σ_c y log(1 + e^{−z}) + (1 − y) log(1 + e^z)."""
        predictors, values = _pair(_predictors(z), self.targets(y))
        return np.asarray((values * softplus(-predictors) + (1 - values) * softplus(predictors)).sum(axis=-1))

    def score(self, z: Any, y: Any) -> Array:
        """Return y − p."""
        predictors, values = _pair(_predictors(z), self.targets(y))
        return np.asarray(values * sigmoid(-predictors) - (1 - values) * sigmoid(predictors))

    def fisher(self, z: Any) -> Array:
        """Return diag p(1 − p)."""
        predictors = _predictors(z)
        return _diagonal(sigmoid(predictors) * sigmoid(-predictors))

    def fisher_product(self, z: Any, direction: Any) -> Array:
        """Return p(1 − p) times a direction."""
        predictors, vectors = _pair(_predictors(z), _predictors(direction, "direction"))
        return np.asarray(sigmoid(predictors) * sigmoid(-predictors) * vectors)

    def fisher_root(self, z: Any) -> Array:
        """Return diag √(p(1 − p))."""
        predictors = _predictors(z)
        return _diagonal(np.exp(-0.5 * (softplus(predictors) + softplus(-predictors))))

    def kl(self, z: Any, other: Any) -> Array:
        """Return Σ_c p log(p/q) + (1 − p) log((1 − p)/(1 − q))."""
        one, two = _pair(_predictors(z), _predictors(other, "other"))
        return np.asarray(softmax_divergence(_two_classes(one), _two_classes(two)).sum(axis=-1))

    def sample(self, z: Any, rng: Any) -> Array:
        """Draw labels 0 and 1; the rarer label has its right probability however rare it is."""
        predictors = _predictors(z)
        waiting = as_rng(rng).standard_exponential(predictors.shape)
        rare = waiting > softplus(np.abs(predictors))
        return np.asarray(rare == (predictors < 0)).astype(predictors.dtype)


@dataclass(frozen=True)
class Categorical(Family):
    """y one of C classes, one-hot, with logits z: softmax regression.

    Examples
    --------
    >>> family = Categorical()
    >>> family.mean([0.0, np.log(3.0)])
    array([0.25, 0.75])
    >>> family.centre([1.0, 3.0])
    array([-1.,  1.])
    """

    name: str = field(default="categorical", init=False)

    def targets(self, y: Any, name: str = "y") -> Array:
        """Return targets (…, C): one-hot rows (`one_hot`), or points of the simplex."""
        values = as_float_array(y, name, min_ndim=1)
        size = values.shape[-1]
        if size < 2:
            fail(name, "at least two classes on the last axis", f"shape {values.shape}", "Labels: one_hot.")
        if (values < 0).any():
            fail(name, "probabilities ≥ 0", float(values.min()))
        off = np.abs(values.sum(axis=-1) - 1)
        if (off > 8 * size * np.finfo(values.dtype).eps).any():
            total = float(values.sum(axis=-1).flat[int(off.argmax())])
            fail(
                name,
                "probabilities of sum 1 over the last axis",
                total,
                "Labels: one_hot(labels, n_classes).",
            )
        return values

    def mean(self, z: Any) -> Array:
        """Return e^{z_c − A(z)}."""
        return softmax(_logits(z))[0]

    def link(self, mean: Any) -> Array:
        """Return log p, centred."""
        p = self.targets(mean, "mean")
        if (p == 0).any():
            fail("mean", "probabilities > 0", 0.0)
        return self.centre(np.log(p))

    def centre(self, z: Any) -> Array:
        """Return the z of sum zero that gives the same distribution."""
        logits = _logits(z)
        return np.asarray(logits - logits.mean(axis=-1, keepdims=True))

    def log_partition(self, z: Any) -> Array:
        """Return log Σ_c e^{z_c}."""
        logits = _logits(z)
        return log_sum_exp(logits)

    def loss(self, z: Any, y: Any) -> Array:
        """Return the cross-entropy −Σ_c y_c log p_c."""
        logits, values = _pair(_logits(z), self.targets(y))
        return np.asarray(-(values * log_softmax(logits)).sum(axis=-1))

    def score(self, z: Any, y: Any) -> Array:
        """Return y − p."""
        logits, values = _pair(_logits(z), self.targets(y))
        p, complement = softmax(logits)
        return np.asarray(values * complement - (1 - values) * p)

    def fisher(self, z: Any) -> Array:
        """Return diag p − ppᵀ."""
        p, complement = softmax(_logits(z))
        return _diagonal(p * complement) + _off_diagonal(-p[..., :, None] * p[..., None, :])

    def fisher_product(self, z: Any, direction: Any) -> Array:
        """Return p ∘ (v − ⟨p, v⟩)."""
        logits, vectors = _pair(_logits(z), _predictors(direction, "direction"))
        p = softmax(logits)[0]
        # Against the largest class: the difference to a constant is what the matrix sees.
        shifted = vectors - np.take_along_axis(vectors, np.expand_dims(logits.argmax(axis=-1), -1), axis=-1)
        return np.asarray(p * (shifted - (p * shifted).sum(axis=-1, keepdims=True)))

    def fisher_root(self, z: Any) -> Array:
        """Return diag √p − p √pᵀ."""
        logits = _logits(z)
        p, complement = softmax(logits)
        root = np.exp(0.5 * log_softmax(logits))  # also where p itself is 0
        return _diagonal(root * complement) + _off_diagonal(-p[..., :, None] * root[..., None, :])

    def kl(self, z: Any, other: Any) -> Array:
        """Return Σ_c p_c log(p_c/q_c)."""
        return softmax_divergence(*_pair(_logits(z), _logits(other, "other")))

    def sample(self, z: Any, rng: Any) -> Array:
        """Draw one-hot rows: the largest of z_c + Gumbel noise."""
        logits = _logits(z)
        waiting = as_rng(rng).standard_exponential(logits.shape)
        chosen = (logits - np.log(waiting)).argmax(axis=-1)
        return np.asarray(np.eye(logits.shape[-1], dtype=logits.dtype)[chosen])


@dataclass(frozen=True)
class Poisson(Family):
    """Counts y_c independent, with log-rates z_c: log-linear regression.

    Examples
    --------
    >>> family = Poisson()
    >>> family.mean([0.0, 2.0]).round(4), float(family.loss([0.0], [3.0]))
    (array([1.    , 7.3891]), 1.0)
    """

    name: str = field(default="poisson", init=False)

    def targets(self, y: Any, name: str = "y") -> Array:
        """Return targets (…, C): counts, or rates ≥ 0."""
        values = as_float_array(y, name, min_ndim=1)
        if (values < 0).any():
            fail(name, "counts ≥ 0", float(values.min()))
        return values

    def mean(self, z: Any) -> Array:
        """Return e^z."""
        return np.asarray(np.exp(_log_rates(z)))

    def link(self, mean: Any) -> Array:
        """Return log λ."""
        rates = self.targets(mean, "mean")
        if (rates == 0).any():
            fail("mean", "rates > 0", 0.0)
        return np.asarray(np.log(rates))

    def log_partition(self, z: Any) -> Array:
        """Return Σ_c e^{z_c}."""
        return np.asarray(self.mean(z).sum(axis=-1))

    def loss(self, z: Any, y: Any) -> Array:
        """Return Σ_c e^{z_c} − y_c z_c, of which log y! is left out: it may be negative."""
        predictors, values = _pair(_log_rates(z), self.targets(y))
        return np.asarray((np.exp(predictors) - values * predictors).sum(axis=-1))

    def score(self, z: Any, y: Any) -> Array:
        """Return y − λ."""
        predictors, values = _pair(_log_rates(z), self.targets(y))
        return np.asarray(values - np.exp(predictors))

    def fisher(self, z: Any) -> Array:
        """Return diag λ."""
        return _diagonal(self.mean(z))

    def fisher_product(self, z: Any, direction: Any) -> Array:
        """Return λ times a direction."""
        predictors, vectors = _pair(_log_rates(z), _predictors(direction, "direction"))
        return np.asarray(np.exp(predictors) * vectors)

    def fisher_root(self, z: Any) -> Array:
        """Return diag √λ."""
        return _diagonal(np.exp(0.5 * _log_rates(z)))

    def kl(self, z: Any, other: Any) -> Array:
        """Return Σ_c μ − λ − λ log(μ/λ)."""
        one, two = _pair(_log_rates(z), _log_rates(other, "other"))
        return np.asarray(exponential_excess(np.exp(one), np.exp(two), two - one).sum(axis=-1))

    def sample(self, z: Any, rng: Any) -> Array:
        """Draw counts; rates up to 2^53, beyond which counts are not distinct numbers."""
        rates = self.mean(z)
        if (rates > 2.0**53).any():
            fail("z", "rates e^z up to 2^53", float(rates.max()))
        return np.asarray(as_rng(rng).poisson(rates)).astype(rates.dtype)


def as_family(value: Any, name: str = "family") -> Family:
    """Return a family from itself or from its name: "gaussian" (Σ = I), "bernoulli", "categorical", "poisson".

    Raises
    ------
    InputError
        For anything else.

    Examples
    --------
    >>> as_family("poisson")
    Poisson(name='poisson')
    """
    if isinstance(value, Family):
        return value
    known = {"gaussian": Gaussian, "bernoulli": Bernoulli, "categorical": Categorical, "poisson": Poisson}
    if not isinstance(value, str) or value not in known:
        fail(name, f"a Family or one of {', '.join(map(repr, NAMES))}", repr(value)[:80])
    made: Family = known[value]()
    return made


def one_hot(labels: Any, n_classes: int) -> Array:
    """Return class labels as one-hot rows.

    Parameters
    ----------
    labels : integer array (…)
        From 0 to n_classes − 1.
    n_classes : int

    Returns
    -------
    array (…, n_classes), float64

    Raises
    ------
    InputError
        For labels that are not whole numbers, or out of range.

    Examples
    --------
    >>> one_hot([2, 0], 3)
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """
    count = as_count(n_classes, "n_classes", low=2)
    values = as_float_array(labels, "labels")
    if (values != np.floor(values)).any():
        bad = float(values[values != np.floor(values)].flat[0])
        fail("labels", "whole numbers", bad)
    if (values < 0).any() or (values >= count).any():
        worst = float(values.min() if (values < 0).any() else values.max())
        fail("labels", f"labels from 0 to {count - 1}", f"{worst:g}")
    return np.asarray(np.eye(count)[values.astype(np.int64)])


def _predictors(z: Any, name: str = "z") -> Array:
    return as_float_array(z, name, min_ndim=1)


def _logits(z: Any, name: str = "z") -> Array:
    logits = _predictors(z, name)
    if logits.shape[-1] < 2:
        fail(
            name, "at least two classes on the last axis", f"shape {logits.shape}", "Two outcomes: Bernoulli."
        )
    return logits


def _log_rates(z: Any, name: str = "z") -> Array:
    """Return log-rates whose exponentials are numbers of the type."""
    predictors = _predictors(z, name)
    # A margin of e^9, since rates are multiplied by differences of logarithms and summed.
    most = float(np.log(np.finfo(predictors.dtype).max)) - 9.0
    if (predictors > most).any():
        fail(name, f"log-rates up to {most:.1f}: e^z overflows", float(predictors.max()))
    return predictors


def _pair(one: Array, two: Array) -> tuple[Array, Array]:
    """Return both broadcast; an error names the second, z being what the network puts out."""
    if one.shape[-1] != two.shape[-1]:
        fail("y", f"{one.shape[-1]} coordinates on the last axis, as z", f"shape {two.shape}")
    shape = (*check_broadcast([one.shape[:-1], two.shape[:-1]], "y"), one.shape[-1])
    return np.broadcast_to(one, shape), np.broadcast_to(two, shape).astype(one.dtype, copy=False)


def _half_square(vectors: Array) -> Array:
    return np.asarray(0.5 * (vectors**2).sum(axis=-1))


def _diagonal(vectors: Array) -> Array:
    return np.asarray(vectors[..., :, None] * np.eye(vectors.shape[-1], dtype=vectors.dtype))


def _off_diagonal(matrices: Array) -> Array:
    return np.asarray(matrices * (1 - np.eye(matrices.shape[-1], dtype=matrices.dtype)))


def _two_classes(z: Array) -> Array:
    return np.stack([np.zeros_like(z), z], axis=-1)
