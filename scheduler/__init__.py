"""The cluster's part: the protocol, and who exchanges with whom. Imports none of the other packages."""
