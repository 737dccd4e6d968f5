"""Faster ways to the same results, on a processor: where each suits is for the layers to ask.

`emotiw_keras.config.fast_kernels(False)`, or EMOTIW_FAST_KERNELS=0, leaves all of them to Keras' own, for comparison.
"""
