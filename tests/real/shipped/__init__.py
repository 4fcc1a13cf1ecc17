"""What p2pd is shipped as: an image, a Debian package, an archive. Each is made, and run as its users run it."""
