"""How does an optimiser's state survive the process? As a tree of plain values and numbered arrays.

States are nested tuples of arrays and numbers (`optimisers`, `preconditioners`). Buffers of passes are dropped: the
next pass makes them anew. Named tuples are rebuilt by name, and only those of `linnat.nonlinear`: nothing in a file is
ever executed. Arrays keep their bits and their memory order, on which the last bits of products can depend.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from linnat._checks import Array, fail
from linnat.nonlinear.network import Network
from linnat.nonlinear.passes import Workspace

OWN = "linnat.nonlinear."


def pack(state: Any) -> dict[str, Array]:
    """Return a state as arrays, one of them the tree as JSON.

    Parameters
    ----------
    state : nested tuples of arrays, numbers, strings and None
        `Network` and `Workspace` may occur; the network is not kept.

    Raises
    ------
    InputError
        For a value of any other type.

    Examples
    --------
    >>> net = Network((1, 1))
    >>> from linnat.nonlinear.optimisers import Adam
    >>> state = Adam().init(net, np.zeros(2))
    >>> sorted(pack(state))[:3]
    ['array0', 'array1', 'array2']
    """
    arrays: list[Array] = []
    tree = _pack(state, arrays, {})
    named = {f"array{k}": array for k, array in enumerate(arrays)}
    return {**named, "tree": np.frombuffer(json.dumps(tree).encode(), np.uint8)}


def unpack(arrays: Mapping[str, Array], net: Network) -> Any:
    """Return the state that was packed; `net` takes the place of its network.

    Raises
    ------
    InputError
        For arrays that `pack` has not written.

    Examples
    --------
    >>> net = Network((1, 1))
    >>> unpack(pack((net, 0.5, np.ones(2))), net)[1:]
    (0.5, array([1., 1.]))
    """
    try:
        tree = json.loads(bytes(arrays["tree"]).decode())
        return _unpack(tree, arrays, net)
    except (KeyError, ValueError, TypeError, AttributeError, ImportError) as error:
        return fail("checkpoint", "a state that this version has written", f"{type(error).__name__}: {error}")


def _pack(value: Any, arrays: list[Array], seen: dict[int, int]) -> Any:
    # NumPy's float64 is a float, too: kept as one, it would lose its type and with it its way of adding.
    if not isinstance(value, np.generic) and isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, Workspace):
        return None
    if isinstance(value, Network):
        return {"network": True}
    if isinstance(value, (np.ndarray, np.generic)):
        # One array in two places stays one array.
        if id(value) not in seen:
            seen[id(value)] = len(arrays)
            arrays.append(np.asarray(value))
        return {"array": seen[id(value)], "scalar": isinstance(value, np.generic)}
    if isinstance(value, tuple):
        kind = type(value)
        parts = [_pack(item, arrays, seen) for item in value]
        if kind is tuple:
            return {"tuple": parts}
        if kind.__module__.startswith(OWN) and hasattr(kind, "_fields"):
            return {"named": [kind.__module__, kind.__qualname__], "parts": parts}
    return fail("state", "nested tuples of arrays, numbers, strings and None", type(value).__name__)


def _unpack(tree: Any, arrays: Mapping[str, Array], net: Network) -> Any:
    if not isinstance(tree, dict):
        return tree
    if "network" in tree:
        return net
    if "array" in tree:
        array = arrays[f"array{tree['array']}"]
        return array[()] if tree["scalar"] else array
    if "tuple" in tree:
        return tuple(_unpack(part, arrays, net) for part in tree["tuple"])
    module, name = tree["named"]
    if not module.startswith(OWN):
        raise ValueError(f"a type of {module}")
    kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and issubclass(kind, tuple)):
        raise ValueError(f"{module}.{name}, which is no named tuple")
    return kind(*(_unpack(part, arrays, net) for part in tree["parts"]))
