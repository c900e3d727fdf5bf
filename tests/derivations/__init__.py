"""The derivations against oracles by definition, and against `linnat.exact` and `linnat.dense`."""
