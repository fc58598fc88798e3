"""What the evaluations share: setups, claims, measurements in processes of their own, published networks."""
