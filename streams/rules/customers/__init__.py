"""Rules of the stream `customers`: account, organization, cancellation, erasure (behaviours.md C11, B6)."""
