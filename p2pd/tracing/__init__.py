"""Traces, by OpenTelemetry: off unless the operator names a collector. `peer.tracing` is the seam."""
