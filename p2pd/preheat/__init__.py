"""Preheats: the part of a host that fetches images ahead of clients, and the API of a scheduler that orders them."""
