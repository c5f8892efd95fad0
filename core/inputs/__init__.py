"""From a file to a tensor: pictures, preprocessing, ground truth, sample pictures."""
