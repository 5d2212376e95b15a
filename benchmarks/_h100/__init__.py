"""The steps of h100.py."""
