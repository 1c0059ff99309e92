"""What a person sees while flows run.

console          notes and progress
training_table   a live table of a training; training_state: what it shows
report_page      an HTML page with pictures; demo_report: the demo's
"""
