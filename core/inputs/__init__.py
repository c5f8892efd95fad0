"""From a file to a tensor: decoding, preprocessing, ground truth and sample pictures."""
