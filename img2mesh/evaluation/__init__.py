"""Tables against the truth: what is compared with what, and how it is written down."""
