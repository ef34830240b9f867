"""What supervisor and server process share.

launch.py     the description of a start, and the environment of the server process
settings.py   the part of it that guard and supervisor are told by whoever runs the server
control.py    events to the supervisor, through a pipe
handover.py   connections given from one process to another
board.py      how busy the servers of several cards are, in shared memory
status.py     `/onecard/status`, and what is answered while nothing serves
"""
