"""One command reruns a comparison of optimisers: tuned alike, over seeds, on the clock, with nothing left out.

Stages: `models` (architectures by name), `methods` (optimisers by name, settings as data), `tasks` (what one run is),
`tuning` (the one rule of search), `run` (one run in one folder), `pool`, `dask_pool` and `sweep` (many of them),
`results`, `summary`, `pictures` and `report` (what came out). `linnat compare` is its command line.
"""
