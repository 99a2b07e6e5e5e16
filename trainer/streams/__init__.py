"""Long streams made of short records: how they are played, planned, scored, and what alerts do on them."""
