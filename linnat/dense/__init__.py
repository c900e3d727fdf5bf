"""Oracles: what the definitions say. Slow, short, obviously right; no helper shared with `linnat.exact`.

`sample` turns a task into finitely many weighted points; `jacobian` perturbs parameters one by one; `fisher`
has the gradient, the Fisher matrix by four roads, the empirical Fisher and the Hessian; `natural` solves on
the P × P matrix; `flow` integrates and iterates, `exponential` for losses other than the square. They take
single networks, work in float64, and refuse what would not fit in memory. `completion` sees some entries only.
"""

from linnat.dense import completion, exponential, fisher, flow, jacobian, multilayer, natural, sample

__all__ = ["sample", "jacobian", "fisher", "natural", "flow", "exponential", "multilayer", "completion"]
