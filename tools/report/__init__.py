"""Reports as one HTML file each that needs nothing else: text, tables and plots, the plotting library inside, no network."""
