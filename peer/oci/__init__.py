"""Values of the OCI specifications: digests, descriptors, references, manifests and a layout's index. No I/O."""
