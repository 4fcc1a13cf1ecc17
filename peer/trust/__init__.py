"""A host's part of trust: its key and certificate on the disk, and how it gets and renews the certificate."""
