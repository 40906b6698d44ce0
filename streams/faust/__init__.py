"""All that depends on Faust's and aiokafka's private parts, kept in one place so that an upgrade is reviewed in one place."""
