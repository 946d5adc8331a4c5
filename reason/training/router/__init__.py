"""The router of Arbitrage: a head on the draft model's states that predicts where the target would do better."""
