"""What runs inside vLLM beside its own: fewer detours on the way to the model, the warm-up, and what each part really takes."""
