"""What is asked: a suite is a class with its options, its samples and its report."""
