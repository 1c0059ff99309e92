"""What a person sees while flows run: progress, a live table of a training, the report of a demo."""
