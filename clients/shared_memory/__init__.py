"""Shared memory, through which tensors reach the server without being sent over a connection."""
