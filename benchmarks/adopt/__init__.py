"""`python -m benchmarks adopt`: what it takes to adopt what a runtime holds."""
