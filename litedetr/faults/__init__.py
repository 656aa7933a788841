"""What can go wrong outside the code: disks, signals, worker processes, lost ranks; and what a user reads of it."""
