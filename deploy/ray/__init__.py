"""onecard on Ray Serve: each replica is a whole `onecard serve`, and one endpoint stands before all of them.

`settings.py` says what can be set, `replica.py` is one server, `door.py` the endpoint with our guard, `metrics.py` hands our
figures to Ray's, `application.py` puts them together, `cluster.py` looks at the cluster and `__main__.py` is the command.

Not Ray's own LLM builder: `ray[llm]` 2.60 is made for vLLM 0.29 and no other, and runs the engine inside its replica, where
supervisor, warm-up before the first request, watchdog and the memory plan have no place.
"""
