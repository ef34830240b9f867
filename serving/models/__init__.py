"""What a checkpoint says of itself, from its config and the headers of its safetensors files. No weight is read.

files.py          where the bytes come from: a folder, or a hub
tensors.py        the headers of safetensors files
checkpoint.py     config and headers together, checked
architecture.py   the shape of the model: layers, heads, vision encoder
weights.py        bytes of the weights as vLLM holds them
"""
