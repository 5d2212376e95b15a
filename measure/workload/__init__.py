"""What a load test does: its settings, transports and arrivals."""
