"""Tests of linnat.compare."""
