"""The handwritten digits of section 5.1: the same two networks by hand in NumPy and in PyTorch.

data        the idx files of MNIST, read and downloaded
nets        the two networks as numbers and initial weights
engines     what trains them: numpy_engine or torch_engine
augment     slightly moved, turned and scaled digits
recipes     schedules and optimisers as numbers
training    the loop, the run folder, going on after a break
figures     figure 13
predict     digits in photos and scans
"""
