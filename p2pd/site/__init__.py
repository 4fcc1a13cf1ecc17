"""Images that are carried to sites without a line: written as an OCI layout, or a tar of one, and taken in there."""
