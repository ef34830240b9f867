"""What supervisor and server process share: the description of a start, the pipe, the board, the connections they hand over."""
