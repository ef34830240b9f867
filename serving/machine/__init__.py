"""This machine: its GPUs, the onecards that run on it, their folders and their processes. Facts and signals, no decisions.

hardware.py    GPUs by NVML, memory, cores
onecards.py    which onecards of this user run here, and what each holds of a GPU
processes.py   a server's process group: started, ended, nothing left behind
progress.py    the steps of a start, read off vLLM's log
port.py        the listening socket, and ports that are free
state_dir.py   the folder of each port
running.py     a running server seen from outside: status, log, stop
orders.py      `onecard sleep` and `onecard wake`
notify.py      word to the service manager (sd_notify)
"""
