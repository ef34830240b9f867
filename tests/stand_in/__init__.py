"""A server process without vLLM, for the supervisor's tests: everything but the engine is real."""
