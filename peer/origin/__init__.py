"""Origins: the sources of blobs that no other host has. A registry over HTTP, or the directory of an OCI layout."""
