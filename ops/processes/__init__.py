"""The main functions of the long-running processes. They create the components and connect them."""
