"""What OCI's specifications define: references, manifests and an image layout's index. No I/O."""
