"""Kafka clients outside Faust and the gateway's hot path: append, look up, tail, topics, lag, contract."""
