"""Pictures as bytes from strangers, up to the pixels that the model sees. Knows nothing of HTTP or vLLM.

errors.py   what is refused, and what the client reads of it
header.py   format and size from the first bytes
limits.py   how large a picture may be to be decoded at all
"""
