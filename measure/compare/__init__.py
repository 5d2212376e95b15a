"""What changed between runs, beyond noise."""
