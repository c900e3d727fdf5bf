"""Tests mirror the package: tests/exact/test_fisher.py tests linnat/exact/fisher.py."""
