"""What is recorded during a run: latencies, checked answers, the server's counters."""
