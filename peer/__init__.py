"""A host's part: the piece store, the origin client, and the downloads that join them."""
