"""Files and Hub sets -> conversations -> tokens and labels. One path for preview, training and evaluation."""
