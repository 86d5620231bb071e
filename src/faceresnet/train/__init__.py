"""FaceResNet in PyTorch: the network, its loss, its data and its training (extra ``[train]``)."""
