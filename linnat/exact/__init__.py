"""Closed forms: what the theorems say. Each stage imports only the stages above it.

Stages: `network` and `task`; `fisher`; `natural`; `flow`, `modes`; `descent`.
"""
