"""Sockets to other hosts: links to neighbours, the scheduler's connection, the peer port, and pieces that go out."""
