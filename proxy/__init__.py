"""The mirror: the pull half of the OCI distribution API, as container runtimes speak it. Imports `peer`."""
