"""Networks: the autoencoder, the multi-view generator and the depth-guided decoder, with their weights files."""
