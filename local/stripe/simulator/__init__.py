"""A simulator of Stripe's billing: it keeps the true state of each object and emits the events about it.

| module | what it simulates |
|---|---|
| `stripe` | the whole: accounts, the test clock, the settings of an account |
| `books` | the objects of one account and the events about them |
| `render` | both API shapes of an object |
| `prices` | the products and prices |
| `customers`, `payments`, `refunds`, `disputes` | customers and their money |
| `invoices`, `collection`, `credits` | drafts, payment attempts and retries, credit notes |
| `subscriptions`, `renewals`, `changes`, `endings` | the life of a subscription |
| `checkout` | Checkout Sessions |
| `lives`, `person`, `money_steps`, `subscription_steps` | random lives |
| `delivery` | signed posts with duplicates, disorder, delays and outages |
| `server`, `lists` | Stripe's API over HTTP |

Objects are kept in the shape of the newest API version. Keys that begin with `_` are the simulator's own; they are in
no event and no answer.
"""
