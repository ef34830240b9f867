"""What stands before vLLM in its own process: pure ASGI layers. `stack.py` lists them in order."""
