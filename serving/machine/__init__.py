"""This machine: its GPUs, the onecards that run on it, their folders and their processes. Facts and signals, no decisions."""
