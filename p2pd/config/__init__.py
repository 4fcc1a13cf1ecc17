"""Configuration: settings, the notation of their values, and the upstreams made from them."""
