"""The demonstration of `p2pd demo`: an image, a registry, nodes and clients."""
