"""Commands on platforms of others."""
