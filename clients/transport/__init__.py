"""HTTP and gRPC on the wire: connections, and requests and answers as bytes."""
