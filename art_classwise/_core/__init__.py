"""What all packages share: classifiers, labels, forward passes, files, processes, random numbers, plain values."""
