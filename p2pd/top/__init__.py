"""`p2pd top`: what a node or a cluster does now, in a terminal."""
