"""What the derivations about exponential families share: their log-partitions, and what follows from those alone."""

from __future__ import annotations

import sympy as sp

from derivations._core import Derivation, inverse

Z = sp.Symbol("z", real=True)
FAMILIES = {
    "gaussian": Z**2 / 2,
    "bernoulli": sp.log(1 + sp.exp(Z)),
    "poisson": sp.exp(Z),
}


def partition(d: Derivation) -> None:
    """Prove that the derivatives of A are the mean and the Fisher matrix."""
    z = sp.Matrix(sp.symbols("z_1 z_2", real=True))
    statistics = [sp.Matrix(sp.symbols(f"T_1{k} T_2{k}", real=True)) for k in range(3)]
    base = sp.symbols("b_0:3", positive=True)
    weights = [b * sp.exp(s.dot(z)) for b, s in zip(base, statistics, strict=True)]
    log_partition = sp.log(sum(weights))
    p = [weight / sum(weights) for weight in weights]
    mean = sum((s * q for s, q in zip(statistics, p, strict=True)), sp.zeros(2, 1))
    second = sum((s * s.T * q for s, q in zip(statistics, p, strict=True)), sp.zeros(2, 2))
    d.define(
        "p(y|z) = b(y) exp(⟨z, T(y)⟩ − A(z)), A(z) = log Σ_y b(y) exp⟨z, T(y)⟩ (here over three outcomes of two "
        "coordinates; sums over more and integrals do alike). The score in z is T(y) − ∇A"
    )
    gradient = sp.Matrix([log_partition.diff(a) for a in z])
    d.prove("The gradient of A is the mean of T", gradient, mean, formula=r"\nabla A(z) = E[T] = \mu(z)")
    d.prove(
        "The Fisher matrix, the second moment of the score over the model's own targets, is the Hessian of A: it does "
        "not depend on the data's targets",
        sp.hessian(log_partition, list(z)),
        second - mean * mean.T,
        formula=r"E[(T - \mu)(T - \mu)^{\top}] = \nabla^2 A(z)",
    )


def means_and_variances(d: Derivation) -> None:
    """Prove them for each family."""
    p = 1 / (1 + sp.exp(-Z))
    expected = {"gaussian": (Z, sp.S.One), "bernoulli": (p, p * (1 - p)), "poisson": (sp.exp(Z), sp.exp(Z))}
    for name, (mean, fisher) in expected.items():
        a = FAMILIES[name]
        d.prove(
            f"{name}: mean and Fisher matrix",
            sp.Matrix([a.diff(Z), a.diff(Z, 2)]),
            sp.Matrix([mean, fisher]),
            formula=sp.Eq(sp.Symbol("A"), a, evaluate=False),
        )
    z, u = sp.Matrix(sp.symbols("z_1:4", real=True)), sp.Matrix(sp.symbols("u_1:3", real=True))
    q = z.applyfunc(sp.exp) / sum(z.applyfunc(sp.exp))
    a = sp.log(sum(z.applyfunc(sp.exp)))
    hessian = sp.hessian(a, list(z))
    d.prove(
        "categorical: mean", sp.Matrix([a.diff(c) for c in z]), q, formula=r"p_c = e^{z_c} / \sum_k e^{z_k}"
    )
    d.prove(
        "and Fisher matrix diag p − ppᵀ",
        hessian,
        sp.diag(*q) - q * q.T,
        formula=r"\nabla^2 A = \mathrm{diag} p - p p^{\top}",
    )
    d.prove(
        "of which 1 is the null vector: the gauge of softmax",
        hessian * sp.ones(3, 1),
        sp.zeros(3, 1),
        formula=r"(\mathrm{diag} p - p p^{\top}) 1 = 0",
    )
    s = sp.Matrix(2, 2, [2, 1, 1, 3])
    metric = inverse(s)
    d.prove(
        "Gaussian with covariance Σ and z the mean: T = Σ⁻¹y, A = ½ zᵀΣ⁻¹z (Σ = [[2, 1], [1, 3]])",
        sp.hessian((u.T * metric * u)[0] / 2, list(u)),
        metric,
        formula=r"\nabla^2 A = \Sigma^{-1}",
    )


def damped_newton(d: Derivation) -> None:
    """Prove that Newton steps damped by log(1 + r)/r decrease these losses from anywhere."""
    a = FAMILIES["bernoulli"]
    p = 1 / (1 + sp.exp(-Z))
    d.prove(
        "For Newton's method: the third derivative is at most the second, Bernoulli",
        a.diff(Z, 3),
        a.diff(Z, 2) * (1 - 2 * p),
        formula=r"A''' = (1 - 2p) A''",
    )
    d.prove("Poisson", FAMILIES["poisson"].diff(Z, 3), FAMILIES["poisson"].diff(Z, 2))
    z, u = sp.symbols("z_1:4", real=True), sp.symbols("u_1:4", real=True)
    s = sp.Symbol("s", real=True)
    generating = sp.log(sum(sp.exp(b + s * c) for b, c in zip(z, u, strict=True)))
    q = [sp.exp(b) / sum(sp.exp(c) for c in z) for b in z]
    mean = sum(b * c for b, c in zip(q, u, strict=True))
    d.prove(
        "Categorical: along u the third derivative is the third central moment, at most the variance × (max u − min u)",
        generating.diff(s, 3).subs(s, 0),
        sum(b * (c - mean) ** 3 for b, c in zip(q, u, strict=True)),
        formula=r"\frac{d^3}{ds^3} A(z + s u) = E[(u - E u)^3]",
    )
    r, h, f = sp.symbols("r h f", positive=True)
    step = sp.log(1 + r) / r
    model = -f * step + f / r**2 * (sp.exp(r * step) - 1 - r * step)
    d.prove(
        "So along a Newton step that moves a predictor by r at most, with f = −⟨G, δ⟩ = δᵀHδ, the loss is below "
        "−f s + f (e^{rs} − 1 − rs)/r², which s = log(1 + r)/r minimises",
        (-f * h + f / r**2 * (sp.exp(r * h) - 1 - r * h)).diff(h).subs(h, step),
        0,
        sp.simplify,
    )
    d.prove("to a value", model, f * (r - (1 + r) * sp.log(1 + r)) / r**2)
    value = (1 + r) * sp.log(1 + r) - r
    d.prove("which is negative, as its opposite starts at zero", value.subs(r, 0), 0)
    d.prove("and grows: Newton's method decreases the loss from anywhere", value.diff(r), sp.log(1 + r))
