"""What the commands need of their process: its title and its standard streams. Imports nothing that takes time."""
