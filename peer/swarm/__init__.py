"""The shell of a host's part in swarms: the connection to the scheduler, links to neighbours, pieces in and out."""
