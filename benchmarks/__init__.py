"""What was measured, how, and what it came to: one module a question; their JSON under `results/`, by date and version."""
