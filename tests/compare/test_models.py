"""Do the named architectures fit the data, and do all methods start alike?"""

from __future__ import annotations

import numpy as np
import pytest

from linnat import InputError
from linnat.compare.models import as_model, names, start


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize(("inputs", "classes"), [(784, 10), (64, 10), (5, 3)])
def test_a_named_model_takes_its_ends_from_the_data(name: str, inputs: int, classes: int) -> None:
    model = as_model(name, inputs, classes)
    assert model.network.widths[0] == inputs
    assert model.network.widths[-1] == (inputs if model.autoencoder else classes)
    assert str(model.network.n_parameters) in model.describe().replace(",", "")


def test_the_autoencoder_is_that_of_the_literature() -> None:
    net = as_model("autoencoder", 784, 0).network
    assert net.widths == (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
    assert net.activations == (*3 * ("logistic",), "identity", *3 * ("logistic",), "identity")
    assert net.family.name == "bernoulli"
    assert net.n_parameters == 2_837_314  # counted by hand: Σ n_i (n_{i−1} + 1)


def test_its_start_is_sparse_with_15_connections_into_a_unit() -> None:
    model = as_model("autoencoder", 784, 0)
    for layer in model.network.layers(start(model, 3, np.dtype(np.float32))):
        assert layer.dtype == np.float32
        assert ((layer[:, :-1] != 0).sum(axis=1) == 15).all()
        assert not layer[:, -1].any()


def test_seeds_differ_and_repeat() -> None:
    model, kind = as_model("digits", 64, 10), np.dtype(np.float64)
    assert np.array_equal(start(model, 1, kind), start(model, 1, kind))
    assert not np.array_equal(start(model, 1, kind), start(model, 2, kind))


def test_layers_may_have_activations_of_their_own_and_a_start() -> None:
    model = as_model("8-5-2-5-8:logistic,identity,logistic:bernoulli:orthogonal", 8, 0)
    assert model.network.activations == ("logistic", "identity", "logistic", "identity")
    assert model.autoencoder
    assert model.start == "orthogonal"


def test_one_width_for_inputs_and_classes_is_decided_by_the_family() -> None:
    assert as_model("4-4:tanh:gaussian", 4, 4).autoencoder
    assert not as_model("4-4:tanh:categorical", 4, 4).autoencoder


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("resnet", "one of autoencoder"),
        ("64-10", "one of autoencoder"),
        ("64-10:tanh", "widths:activation:family"),
        ("64-x-10:tanh:categorical", "integers between hyphens"),
        ("64-10:tanh:cauchy", "family of --model"),
        ("64-10:sine:categorical", "--model"),
        ("64-10:tanh:categorical:zeros", "start of --model"),
        ("32-10:tanh:categorical", "64 inputs"),
        ("64-11:tanh:categorical", "10 (classes)"),
        ("64-0-64:tanh:gaussian", "--model"),
        ("64-64:tanh:categorical", "10 (classes)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(InputError) as error:
        as_model(text, 64, 10)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_a_classifier_needs_classes() -> None:
    with pytest.raises(InputError, match="no class labels"):
        as_model("classifier", 784, 0)
