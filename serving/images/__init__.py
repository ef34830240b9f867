"""Pictures from strangers: from a data URL or a web address up to the pixels that the model sees. Knows nothing of vLLM.

errors.py     what is refused, and what the client reads of it
data_url.py   the bytes in a data URL
fetch.py      the bytes at a web address, where that is switched on
addresses.py  which web addresses may be fetched for a stranger
header.py     format and size from the first bytes
limits.py     how large a picture may be to be decoded at all
grid.py       the size that the model sees
decode.py     bytes to RGB in the right colours
fit.py        one picture from its bytes to the grid
kept.py       pictures that were fitted lately
workshop.py   many pictures at once, on threads, within bounded memory
seen.py       the sizes that a request's pictures were seen at
"""
