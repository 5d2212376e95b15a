"""Tensors that do not travel through the socket: system and CUDA shared memory, and how the server learns of them."""
