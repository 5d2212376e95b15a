"""HTTP and gRPC as they travel: connections, bytes, statuses; nothing here knows models or batches."""
