"""The encoder file: where it lies, what it holds, which networks it fits, how it gets into one."""
