"""The process that stays: it owns the port, starts and watches a server on each card, and answers while none does.

supervisor.py   the port, sleep, the end of everything
lane.py         one card's server: started, watched, started again
life.py         one life of it: its process and its pipes
aftermath.py    what it died of, and what follows; restarts.py: how often it may die
server_log.py   its log
room.py         GPU memory for it, or a wait until others give it back
swap.py         which of several models is loaded next; sleeper.py: what ends a sleep
waiting.py      who answers meanwhile; hold.py, holding.py: requests that wait for a model
situation.py    where all of it stands, for clients and commands; console.py: for the terminal
together.py     `/metrics` of several servers as one
"""
