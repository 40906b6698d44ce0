"""An independent model of the result, against which the store is compared."""
