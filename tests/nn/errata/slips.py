"""Slips of the pen in the paper: where, what is printed, what is meant."""

SLIPS = [
    (
        "17, text",
        "`∂L/∂X^(l)` “is broken up”",
        "`∂L/∂W^(l)`",
    ),
    (
        "24, first line",
        "`X_rc'h'w' * W_c'`",
        "layer l has no channel c'; by the rule below it, `X_r * W_c'`",
    ),
    (
        "24, 27",
        "`*` is called a convolution",
        "24 is a cross-correlation; a true convolution turns the kernel itself, and 27 would "
        "then have no rot()",
    ),
    (
        "25",
        "`∂ Σ_c … / ∂X_rchw`",
        "the c that is summed and the c that is given are two indices with one name",
    ),
    (
        "25, text",
        "`∂L/∂X^(l+1)` “is broken up”; “all the neurons of layer l have to be summed over”",
        "`∂L/∂X^(l)`; of layer l+1",
    ),
    (
        "25–28",
        "X of section 4.2, which has the padding in it",
        "the delta-error of the layer itself is what is left when the padding is cut off",
    ),
    (
        "28, last line",
        "`X_rchw * δ_rc'`",
        "`X_rc * δ_rc'`: maps, not numbers",
    ),
    (
        "28, text",
        "“the loss L(θ) with respect to the weights L(θ)”",
        "W",
    ),
    (
        "section 4.4",
        "“any differentiable function”",
        "ReLU is not, at 0; we take its derivative there as 0",
    ),
    (
        "41, 42",
        "λ is “the weight decay term”",
        "the weight of the new value; it has nothing to do with weight decay",
    ),
    (
        "46, text",
        "“the delta-error of the previous layer δ^(l+1)”",
        "of the next layer",
    ),
    (
        "47, text",
        "linear “by equation (39)”",
        "by 40",
    ),
    (
        "48, text",
        "“substituting X^(l) with its definition”",
        "X̂",
    ),
    (
        "50, third line",
        "the last sum has lost its `I_c'c`",
        "nothing follows from it: the sum is 0",
    ),
    (
        "51",
        "`μ_c'` after c' has been summed over",
        "`μ_c`",
    ),
    (
        "section 4.10",
        "`0 ≤ c ≤ C`",
        "`1 ≤ c ≤ C`: C classes",
    ),
    (
        "section 4.11",
        "the softmax layer “does not have any layers”",
        "parameters",
    ),
    (
        "section 5.1",
        "“every convolutional and fully connected layer is … followed by a ReLU layer”",
        "taken at its word, the last one too, which cuts off the logits below 0 before the softmax",
    ),
    (
        "section 5.2",
        "K consists of “1 foreground class (no object in the bounding box)”",
        "1 background class",
    ),
    (
        "section 5.2",
        "Smooth L1 is “equation 60”, the focal loss “equation 59”",
        "59 and 60",
    ),
    (
        "section 5.2",
        "hyperparameters “the same as for RetinaNet, namely, γ = 2 and α = 3”",
        "RetinaNet's α is 0.25",
    ),
    (
        "59, 61",
        "`L_r` of one number, given four offsets",
        "the sum over the four",
    ),
    (
        "section 6",
        "“hidden layer sizes 1000”",
        "784, by section 5.1",
    ),
    (
        "section 6",
        "“7 layer deep convolutional neural network …, followed by two fully connected layers”",
        "6 convolutions and 2 fully connected layers, by section 5.1",
    ),
]
