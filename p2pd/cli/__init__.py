"""The command line. A module here has one command of the same name, and is imported only when that is run."""
