"""What is around our processes, made to fail: disks, cables and clocks."""
