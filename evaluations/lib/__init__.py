"""What the evaluations share: setups, claims, measurements in separate processes, published networks."""
