"""Which networks are compared on? Architectures by name, or written down as widths:activations:family:start.

An autoencoder's targets are its inputs, everything else predicts class labels, one-hot. The first and the last width
follow the data, so that a name fits any of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from linnat._checks import Array, InputError, as_choice, as_count, fail
from linnat.families import NAMES
from linnat.nonlinear.initial import DRAWS, initial
from linnat.nonlinear.network import Network

GRAMMAR = "widths:activation:family[:start], such as 784-100-10:tanh:categorical"


@dataclass(frozen=True)
class Model:
    """An architecture and where its training starts.

    Attributes
    ----------
    name : str
        As it was asked for.
    network : Network
    start : str
        A kind of `linnat.nonlinear.initial`.
    autoencoder : bool
        Whether the targets are the inputs.
    """

    name: str
    network: Network
    start: str
    autoencoder: bool

    def describe(self) -> str:
        """Return one line for a reader.

        Examples
        --------
        >>> as_model("64-10:tanh:categorical", 64, 10).describe()
        '64-10, categorical outputs, glorot start, 650 parameters; learns class labels'
        """
        net = self.network
        hidden = list(dict.fromkeys(net.activations[:-1]))
        units = f"{' and '.join(hidden)} hidden units, " if hidden else ""
        task = "reproduces its inputs" if self.autoencoder else "learns class labels"
        widths, size = "-".join(map(str, net.widths)), f"{net.n_parameters:,} parameters"
        return f"{widths}, {units}{net.family.name} outputs, {self.start} start, {size}; {task}"


def autoencoder(inputs: int, hidden: tuple[int, ...], code: int) -> Network:
    """Return a mirrored autoencoder: logistic hidden units, linear code, Bernoulli outputs.

    Examples
    --------
    >>> autoencoder(64, (30,), 6).widths
    (64, 30, 6, 30, 64)
    """
    widths = (inputs, *hidden, code, *hidden[::-1], inputs)
    units = len(hidden) * ("logistic",)
    return Network(widths, (*units, "identity", *units), "bernoulli")


def names() -> tuple[str, ...]:
    """Return the named architectures.

    Examples
    --------
    >>> names()
    ('autoencoder', 'digits', 'classifier')
    """
    return ("autoencoder", "digits", "classifier")


def as_model(text: str, inputs: int, classes: int) -> Model:
    """Return an architecture that fits the data.

    Parameters
    ----------
    text : str
        "autoencoder" (hidden 1000-500-250-30 and their mirror image, as in Hinton and Salakhutdinov 2006), "digits" (a
        small one: 50-25-8), both with sparse starts of 15 connections into a unit; "classifier" (hidden 300-100, tanh);
        or widths:activation:family[:start], where one activation stands for all hidden layers and several between
        commas for each of them.
    inputs, classes : int
        Of the data; no classes where there are no labels.

    Returns
    -------
    Model

    Raises
    ------
    InputError
        For an unknown name, a description that cannot be read, widths that do not fit the data.

    Examples
    --------
    >>> as_model("autoencoder", 784, 10).network.widths
    (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
    >>> as_model("784-100-10:tanh:categorical", 784, 10).network.activations
    ('tanh', 'identity')
    """
    if text == "autoencoder":
        return Model(text, autoencoder(inputs, (1000, 500, 250), 30), "sparse", True)
    if text == "digits":
        return Model(text, autoencoder(inputs, (50, 25), 8), "sparse", True)
    if text == "classifier":
        if classes < 2:
            fail("--model", "an autoencoder, since the data has no class labels", repr(text))
        return Model(text, Network((inputs, 300, 100, classes), "tanh", "categorical"), "glorot", False)
    if ":" not in text:
        fail("--model", f"one of {', '.join(names())}, or {GRAMMAR}", repr(text))
    return _described(text, inputs, classes)


def start(model: Model, seed: int, dtype: np.dtype[np.generic]) -> Array:
    """Return the parameters at which training with this seed starts: the same for every method.

    Examples
    --------
    >>> start(as_model("2-3:tanh:gaussian", 2, 3), 0, np.dtype(np.float32)).shape
    (9,)
    """
    rng = np.random.default_rng((as_count(seed, "seed", low=0), 1))
    return initial(model.network, model.start, rng=rng, dtype=dtype)


def _described(text: str, inputs: int, classes: int) -> Model:
    parts = [part.strip() for part in text.split(":")]
    if len(parts) not in (3, 4):
        fail("--model", GRAMMAR, repr(text))
    try:
        widths = tuple(int(n) for n in parts[0].split("-"))
    except ValueError:
        fail("--model", f"integers between hyphens in {GRAMMAR}", repr(parts[0]))
    units = parts[1].split(",")
    family = as_choice(parts[2], "family of --model", NAMES)
    kind = as_choice(parts[3] if len(parts) == 4 else "glorot", "start of --model", tuple(DRAWS))
    try:
        net = Network(widths, units[0] if len(units) == 1 else units, family)
    except InputError as error:
        raise InputError(f"--model: {error}") from None
    if net.widths[0] != inputs:
        fail("--model", f"{inputs} inputs, as the data has", net.widths[0])
    is_mirror = net.widths[-1] == inputs and family != "categorical"
    if not is_mirror and (classes < 2 or net.widths[-1] != classes):
        # A single output for two classes would need another coding of the labels.
        ends = f"{inputs} outputs (an autoencoder)" + (f" or {classes} (classes)" if classes > 1 else "")
        fail("--model", ends, f"{net.widths[-1]} {family} outputs")
    return Model(text, net, kind, is_mirror)
