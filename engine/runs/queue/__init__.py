"""Locks, and the queues of devices."""
