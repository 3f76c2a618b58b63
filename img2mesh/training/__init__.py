"""Training of the compact family on rendered views, one loop for all networks."""
