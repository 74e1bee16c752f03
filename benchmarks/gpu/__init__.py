"""Every figure that needs a GPU, from one command: python -m benchmarks.gpu --minutes 9 --out FOLDER."""
