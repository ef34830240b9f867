"""The same questions to two checkpoints, and what the answers say of the difference.

questions.py    what is asked: the demo suite, or a JSONL of pictures with questions and answers
asking.py       a server asked, its answers kept in a journal that an interruption does not set back
serving.py      a checkpoint served for that long
statistics.py   McNemar, the interval of a paired difference, the drift of distributions: pure functions
compare.py      two journals compared, and the gate
command.py      `onecard evaluate`, in order
"""
