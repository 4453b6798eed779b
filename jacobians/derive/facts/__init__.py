"""What is known of values, whatever the finite input: zeros, ranges, signs, roundings."""
