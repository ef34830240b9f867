"""What vLLM needs on a machine without a GPU beyond what pip installs.

Owns the torchvision shim: its source (`torchvision_shim.py`) and the way it reaches site-packages (`__main__.py`); and how the
processes of vLLM wait for one another there (`waiting.py`).
"""
