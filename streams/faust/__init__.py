"""Code that depends on private parts of Faust and aiokafka, in one package, so that an upgrade is reviewed here."""
