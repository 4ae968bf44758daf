"""Zeros that the input makes: weights that meet small inputs, or none, need not be read.

    from sparsity_edu.activations import teal

    teal.apply_(model, 0.5, calibration)    # from now on the model skips half of the inputs of every layer

TEAL, for any decoder of linear layers: small inputs count as zeros.

    teal         thresholds from a text, and a model that goes by them
    histogram    the threshold for a share of inputs
    allocation   which layers can bear more: a greedy search, block by block; trials runs a block again and again for it
    plan         thresholds in a JSON file
    decoding     what they cost in decoding

Deja Vu, for models with ReLU, or to see what it costs others: a token uses few heads and few neurons.

    labels       which ones a token needs
    predictor    what tells them from a hidden state, and how it is trained
    dejavu       the predictors of a whole model, and which hidden states they read
    execution    a model on those that were chosen: masked, or reading nothing else; deferred is the cache that it needs

Both go through the blocks of a dense model with a text: dense. train_tiny_relu makes the model "tiny-relu", and
deja_vu_record measures what can be left out of it.
"""
