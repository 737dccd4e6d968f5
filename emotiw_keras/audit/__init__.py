"""Any reader of expressions on FER-2013, in the same columns: runs of ours, ONNX and Keras files, other packages."""
