"""What a checkpoint says of itself, from its config and the headers of its safetensors files. No weight is read."""
