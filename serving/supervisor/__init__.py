"""The process that stays: it owns the port, starts and watches a server on each card, and answers while none does."""
