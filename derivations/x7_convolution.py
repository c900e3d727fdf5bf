"""Why do deep linear convolutional networks with full kernels fall apart into frequencies, those with short ones not?

Statement X7: N2, C1, C2, D1 hold at every frequency of the discrete Fourier transform; one channel breaks where
ŵ*/ŵ(0) is real and negative. For kernels of finite support and one channel the tangent space is an ideal of
polynomials: everything if no two layers share a root. New.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import sympy as sp
from numpy.typing import NDArray

from derivations._core import Derivation, integers, pinv
from derivations._layers import after, before

STATEMENTS = ("X7",)

Array = NDArray[Any]


def rotated(part: Any, other: Any) -> Any:
    """Return [X −Y; Y X], the real matrix that stands for X + iY."""
    return sp.Matrix(sp.BlockMatrix([[part, -other], [other, part]]))


def ratio(start: Any, goal: Any, t: Any) -> Any:
    """Return ŵ(t)/ŵ(0) = 1 + (1 − e^{−t})(g − 1) with g = ŵ*/ŵ(0)."""
    return 1 + (1 - sp.exp(-t)) * (goal / start - 1)


def derive() -> tuple[Derivation, ...]:
    """Derive X7."""
    d = Derivation("X7", "Natural gradient of deep linear convolutional networks", "new")
    _frequencies(d)
    _complex_blocks(d)
    _breaks(d)
    _finite(d)
    _instances(d)
    return (d,)


def functions() -> dict[str, Callable[..., Any]]:
    """Return the results as numerical functions.

    natural(kernels, target)
        v_i of one-channel kernels of full length, −u in the package's sign.
    kernels(kernels, target, t)
        One channel, at time t of the layerwise flow.
    breakdown(kernels, target)
        Its end.
    """
    start, goal, t = sp.symbols("a b t")
    moved = sp.lambdify((start, goal, t), ratio(start, goal, t), "numpy")

    def spectra(kernels: Sequence[Array], target: Array) -> tuple[list[Array], Array, Array]:
        hats = [np.fft.fft(k) for k in kernels]
        return hats, reduce(np.multiply, hats), np.fft.fft(target)

    def natural(kernels: Sequence[Array], target: Array) -> list[Array]:
        hats, total, aim = spectra(kernels, target)
        return [np.real(np.fft.ifft(h * (aim - total) / (len(hats) * total))) for h in hats]

    def at(kernels: Sequence[Array], target: Array, time: float) -> list[Array]:
        hats, total, aim = spectra(kernels, target)
        root = moved(total, aim, time) ** (1 / len(hats))
        return [np.real(np.fft.ifft(h * root)) for h in hats]

    def breakdown(kernels: Sequence[Array], target: Array) -> float:
        _, total, aim = spectra(kernels, target)
        size = len(target)
        real = (aim / total)[[0] if size % 2 else [0, size // 2]].real
        return min((float(np.log1p(-1 / g)) for g in real if g < 0), default=float("inf"))

    return {"natural": natural, "kernels": at, "breakdown": breakdown}


def _frequencies(d: Derivation) -> None:
    n, k, p, q = sp.symbols("n k p q", integer=True)
    wave = sp.exp(2 * sp.pi * sp.I * k * p / n)
    term = sp.exp(2 * sp.pi * sp.I * k * (p - q) / n)
    d.prove(
        "A wave of frequency k comes out of a circular convolution as itself, times Σ_q w(q) e^{−2πikq/n} = ŵ(k)",
        sp.simplify(term / wave),
        sp.exp(-2 * sp.pi * sp.I * k * q / n),
        formula=r"\sum_q w(q) e^{2\pi i k (p-q)/n} = \hat w(k) e^{2\pi i k p/n}",
    )
    for size in (3, 4):
        f = sp.Matrix(size, size, lambda a, b, n=size: sp.exp(-2 * sp.pi * sp.I * a * b / n))
        gram = (f * f.H).applyfunc(lambda x: sp.simplify(sp.expand_complex(x)))
        d.check(
            f"Waves are orthogonal, their Gram matrix is n times the identity (n = {size}): ‖w‖² = ‖ŵ‖²/n",
            gram == size * sp.eye(size),
        )
    d.define(
        "With several channels ŵ_i(k) is a C_i × C_{i−1} matrix, layers multiply frequency by frequency, and the "
        "excess loss "
        "is ½ Σ_k ‖ŵ*(k) − ŵ(k)‖². A kernel of full length is any array of blocks with ŵ(−k) conjugate to ŵ(k), an "
        "isometric "
        "image of independent blocks",
        r"\ell = \tfrac12 \sum_k \|\hat E(k)\|^2,\quad "
        r"\|J\delta\|^2 = \sum_k \|\sum_i \hat B_i(k)\hat\delta_i(k)\hat A_i(k)\|^2",
    )
    d.define(
        "J, ‖v‖² and vᵀ blockdiag(F) v are sums over k, so N2 and N3 hold at every k by itself, and so does all "
        "after them"
    )


def _complex_blocks(d: Derivation) -> None:
    x, y, u, v = (sp.Matrix(2, 2, sp.symbols(f"{name}:4", real=True)) for name in "xyuv")
    d.prove(
        "X + iY ↦ [X −Y; Y X] keeps products",
        rotated(x, y) * rotated(u, v),
        rotated(x * u - y * v, x * v + y * u),
        formula=r"\rho(Z)\rho(Z') = \rho(ZZ')",
    )
    d.prove(
        "and turns adjoints into transposes",
        rotated(x, y).T,
        rotated(x.T, -y.T),
        formula=r"\rho(Z)^{\top} = \rho(Z^H)",
    )
    d.define(
        "so it keeps the four equations of Penrose, projections, and principal powers (polynomials in Z)"
    )
    a = integers(3, 2, 4) + sp.I * integers(3, 2, 9)
    plus = (a.H * a).inv() * a.H
    real, imaginary = plus.as_real_imag()
    whole = pinv(rotated(*(sp.Matrix(part) for part in a.as_real_imag())))
    d.check(
        "Exact, 3 × 2 of Gaussian integers: ρ(Z)⁺ = ρ(Z⁺)",
        (whole - rotated(sp.Matrix(real), sp.Matrix(imaginary))).applyfunc(sp.simplify) == sp.zeros(4, 6),
    )


def _breaks(d: Derivation) -> None:
    a, b, t = sp.symbols("a b t", nonzero=True)
    h, depth = sp.symbols("h L", positive=True)
    d.prove(
        "One channel: v̂_i = Ê ŵ_i/(Lŵ), so that Σ_i v̂_i ŵ/ŵ_i = Ê and ŵ(t) = ŵ* + e^{−t}(ŵ(0) − ŵ*)",
        depth * ((b - a) * h / (depth * a)) * a / h,
        b - a,
    )
    d.prove(
        "that is ŵ(0) g(t)",
        a * ratio(a, b, t),
        b + sp.exp(-t) * (a - b),
        formula=r"\hat w(t) = \hat w(0) g(t)",
    )
    g = sp.Function("g")(t)
    d.prove(
        "ŵ_i(t) = ŵ_i(0) g^{1/L} solves it: (g^{1/L})' = g'/(Lg) g^{1/L}",
        sp.diff(g ** (1 / depth), t) - g ** (1 / depth) * sp.diff(g, t) / (depth * g),
        0,
    )
    mu, s = sp.symbols("μ s", positive=True)
    path = 1 + s * (-mu - 1)
    d.prove(
        "g runs on the segment from 1 to ŵ*/ŵ(0), which meets 0 if and only if the end is real and negative, −μ: at "
        "1 − e^{−t} = 1/(1 + μ), t = log(1 + 1/μ)",
        path.subs(s, 1 / (1 + mu)),
        0,
        formula=r"t_s = \log(1 + 1/|\mu|)",
    )
    d.define("Frequencies 0 and n/2 are always real; at others a real ratio is of measure zero")


def _finite(d: Derivation) -> None:
    z = sp.Symbol("z")
    one, two = sp.Poly(z**2 + 2 * z - 3, z), sp.Poly(2 * z - 1, z)
    shifts = [(two * sp.Poly(z**q, z)).all_coeffs() for q in range(3)] + [
        (one * sp.Poly(z**q, z)).all_coeffs() for q in range(2)
    ]
    rows = sp.Matrix([[0] * (4 - len(c)) + list(c) for c in shifts])
    d.define(
        "Kernels of m_i entries, Σ(m_i − 1) = D < n: w(z) = Π_i w_i(z) is a polynomial of degree D, and the tangent "
        "space is "
        "Σ_i {δ_i(z) : degree < m_i} Π_{j≠i} w_j(z)"
    )
    d.check(
        "For two layers its matrix is Sylvester's, of full rank D + 1 if and only if the resultant is not zero; "
        "with more "
        "layers, partial fractions: if no two layers share a root (Bézout)",
        rows.rank() == 4 and sp.resultant(one.as_expr(), two.as_expr(), z) != 0,
    )
    shared = sp.Poly((z - 1) * (z + 3), z), sp.Poly(2 * z - 2, z)
    shifts = [(shared[1] * sp.Poly(z**q, z)).all_coeffs() for q in range(3)]
    shifts += [(shared[0] * sp.Poly(z**q, z)).all_coeffs() for q in range(2)]
    rows = sp.Matrix([[0] * (4 - len(c)) + list(c) for c in shifts])
    d.check(
        "A shared root is a root of every tangent polynomial: one dimension is lost",
        rows.rank() == 3 and all(sum(c for c in row) == 0 for row in rows.tolist()),
    )
    d.define(
        "White input: the loss beyond the support is constant, the error on it is all tangent, so w moves on the "
        "line of C1 "
        "towards the truncated target until two layers first share a root"
    )


def _instances(d: Derivation) -> None:
    layers = [sp.Matrix([[2 + sp.I]]), sp.Matrix([[1 - sp.I]]), sp.Matrix([[3]])]
    goal = sp.Matrix([[1 + 4 * sp.I]])
    error = goal - before(layers, 4)
    change = sp.zeros(1, 1)
    for i in range(1, 4):
        b, a = after(layers, i), before(layers, i)
        change += b * (error[0] / (3 * b[0] * a[0])) * a
    d.check(
        "Exact, one channel and one complex frequency, three layers: the line of C1",
        sp.simplify(change[0] - error[0]) == 0,
    )
