"""What is in a picture (scene.py), and its pixels as they come out of a file (draw.py)."""
