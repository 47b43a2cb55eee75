"""What the template costs and gains: `make demo` shows it, `make bench` measures it."""
