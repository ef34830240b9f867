"""Fewer bits for the weights, and the proof that the answers are still as good.

The way of `onecard quantize`, in the order in which it is gone:

    scheme.py        what is asked for: a YAML file of `configs/quantize`
    check.py         what can be known to fail before anything is computed
    calibration.py   pictures with questions: the user's folder, or drawn ones
    unfinished.py    what an interrupted run has left
    environment.py   llm-compressor in an environment of its own
    job.py           what is handed to the worker there, and its progress
    worker.py        the only file that runs there, with recipe.py and pipeline.py; run.py runs it to its end
    folders.py       a checkpoint folder, written shard by shard
    head.py          the output head at 8 bits; also what `onecard requantize-head` does
    card.py          the README.md of the result
    command.py       all of it, in order; the gate of `serving/evaluate` ends it
"""
