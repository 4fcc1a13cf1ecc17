"""Origins: where blobs come from when no peer has them. A registry over HTTP, or an OCI image layout directory."""
