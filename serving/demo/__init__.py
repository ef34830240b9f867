"""The built-in model: `model/` is served, the rest made it. README.md says how to make it again."""
