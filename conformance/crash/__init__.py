"""The durability campaigns: a node that is killed, cut off, damaged, starved and crowded, and what it owes afterwards."""
