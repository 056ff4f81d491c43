"""Work on several machines: Ray starts the functions that one machine uses, on parts of the data. Nothing else imports Ray."""
