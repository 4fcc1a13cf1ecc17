"""`python -m benchmarks preheat`: what preheating saves, and what it costs a client."""
