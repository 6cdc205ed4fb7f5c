"""A soak: real workers and servers are killed at any moment for minutes, and then all is reconciled from outside.

Run it with `make soak`, or `python -m soak` with `tests` on the path. What arrived at the sinks is the truth; the
ledger's tables are read with plain SQL.

`story` is what is sent, `submitting` sends it, `nursery` keeps the processes that get killed, `servers` are what they
talk to, `sinks` is where messages arrive, `killing` strikes, `run` puts these together, `reconcile` judges, `report`
tells.
"""
