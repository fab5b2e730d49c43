"""The process file system (man 5 proc): what the kernel's objects say, as text."""
