"""What depends on private parts of Faust and aiokafka, in one place, so that an upgrade is reviewed in one place."""
