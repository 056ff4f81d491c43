"""Check payments again and again: a history of the findings, a page of them over time, and a webhook."""
