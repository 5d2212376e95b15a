"""What is kept of a run while it goes on: latencies, answers that were checked, the server's counters."""
