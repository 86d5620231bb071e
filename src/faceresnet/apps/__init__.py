"""What people do with the detector, each in a file of its own."""
