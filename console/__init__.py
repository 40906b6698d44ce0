"""The operator's console: a web application that shows events, customers and failures, and repairs them."""
