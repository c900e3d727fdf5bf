"""Tests of linnat.nonlinear."""
