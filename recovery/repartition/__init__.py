"""Changes the partition count of the topics without changing the order of any customer's events."""
