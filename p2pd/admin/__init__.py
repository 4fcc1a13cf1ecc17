"""The admin port: its servers, its client and the metrics."""
