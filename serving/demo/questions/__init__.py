"""What is asked about a picture, in which words, what the right answer is (conversations.py), and who judges (judge.py)."""
