"""What can go wrong outside the code: disks, signals, worker processes, and what a user reads of it."""
