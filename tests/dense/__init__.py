"""Tests of the oracles: against each other, against loops, exact differences and multiple precision."""
