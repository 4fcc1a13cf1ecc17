"""What `p2pd demo` shows p2pd with."""
