"""GPU, supervisor, plan and machine as metrics, from a process of its own: it lives when the engine does not.

exporter.py       the process: its start, its registry, its end
sampled.py        readings taken beside the scrapes, so that a scrape never waits
nvml.py, gpu.py   the GPUs, read and shown
watch.py          the server's status, from outside
host.py           disks, memory, onecard's processes
"""
