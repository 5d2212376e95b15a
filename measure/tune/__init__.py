"""The setting with the most throughput within an SLO."""
