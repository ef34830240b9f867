"""Pictures as bytes from strangers, up to the pixels that the model sees. Knows nothing of HTTP or vLLM.

errors.py     what is refused, and what the client reads of it
data_url.py   the bytes in a data URL
header.py     format and size from the first bytes
limits.py     how large a picture may be to be decoded at all
grid.py       the size that the model sees
decode.py     bytes to RGB in the right colours
fit.py        one picture from its bytes to the grid
kept.py       pictures that were fitted lately
workshop.py   many pictures at once, on threads, within bounded memory
seen.py       the sizes that a request's pictures were seen at
"""
