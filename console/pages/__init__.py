"""The pages of the console. Each module declares its routes, asks its queries, and names its template."""
