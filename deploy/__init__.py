"""What runs onecard elsewhere and watches it. Python only where something is generated."""
