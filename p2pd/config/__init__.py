"""Configuration: settings, the values that they are written in, and upstreams made of them."""
