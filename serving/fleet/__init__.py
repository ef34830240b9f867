"""Placement advice: which model and precision on which of many cards, how many replicas, and what if one machine fails.

`demand.py` is the YAML file, `cards.py` how long a card takes, `simulate.py` the queueing, `advise.py` the choice,
`describe.py` the words; `calibrate.py` makes of a measurement the times that `cards.py` else derives. Nothing here is started
or measured; `benchmarks.fleet_check` and `cards_check` compare it with servers.
"""
