"""`onecard batch`: one question about thousands of pictures, and every answer kept, whatever ends the run.

inputs.py what is asked · journal.py what has been answered, on disk · run.py asks · results.py the file that people read
"""
