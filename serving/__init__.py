"""onecard's serving stack: profile → plan → engine arguments → supervisor → server → request path → metrics."""

__version__ = "0.1.0"
