"""`p2pd pull`: an image through the mirror, into an OCI image layout."""
