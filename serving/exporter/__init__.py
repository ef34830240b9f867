"""GPU, supervisor, plan and machine as metrics, from a process of its own: it lives when the engine does not."""
